"""The TAB network: boundary estimation, then the boundary-aware landmark transform. The only part that needs torch."""

from tabrt.network.config import TabConfig
from tabrt.network.tab import Tab, TabOutput

__all__ = ["Tab", "TabConfig", "TabOutput"]
