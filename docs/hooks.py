"""For mkdocs: pages and pictures that lie elsewhere in the repository become part of the site.

In the pages they are linked to as on a forge, `../benchmarks/results/soak.md`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
ELSEWHERE = (
    *("CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "LICENSE", "NOTICE"),
    *("benchmarks/README.md", "benchmarks/results/*.md", "benchmarks/results/*.png"),
    *("export/PARITY.md", "export/parity.png", "training/NOTES.md", "tabrt/models/MODEL_CARD.md", "examples/*.py"),
)
PLACE = "repository"


def on_files(files: Any, config: Any) -> Any:
    """Add what lies elsewhere."""
    for pattern in ELSEWHERE:
        for path in sorted(ROOT.glob(pattern)):
            uri = f"{PLACE}/{path.relative_to(ROOT).as_posix()}"
            files.append(File.generated(config, uri, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links to it as the site has them: from pages of ours to `repository/…`, from those there to pages of ours."""
    if page.file.src_uri.startswith(f"{PLACE}/"):
        up = "../" * page.file.src_uri.count("/")
        return markdown.replace("](docs/", f"]({up}").replace("](../docs/", f"]({up}")
    return markdown.replace("](../", f"]({PLACE}/")
