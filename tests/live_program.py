"""`tabrt …` with a tracker whose faces are scripted, so that the live loop is tried without a trained network."""

from live_sources import ScriptedTracker

import tabrt.cli
import tabrt.live

if __name__ == "__main__":
    tabrt.live.Tracker = ScriptedTracker
    tabrt.cli.main()
