"""The TAB network: boundary estimation, then the boundary-aware landmark transform. The only part that needs torch."""

from tabrt.network.config import WIDTHS, TabConfig
from tabrt.network.tab import Tab, TabOutput

__all__ = ["WIDTHS", "Tab", "TabConfig", "TabOutput"]
