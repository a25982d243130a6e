"""`tabrt …` with a tracker whose faces are scripted, so that the live loop is tried without a trained network."""

from live_sources import ScriptedTracker

import tabrt.cli
import tabrt.live.loop

if __name__ == "__main__":
    tabrt.live.loop.Tracker = ScriptedTracker
    tabrt.cli.main()
