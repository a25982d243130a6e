"""`tabrt …` with a tracker whose faces are scripted, so that the live loop is tried without a trained network."""

from live_sources import ScriptedTracker

import tabrt.cli
import tabrt.commands.options

if __name__ == "__main__":
    tabrt.commands.options.TrackingOptions.tracker = lambda self, boundaries=False: ScriptedTracker()
    tabrt.cli.main()
