"""A fake of the payments API's endpoint *Delete customer*, with faults; it imports nothing of the rest."""

from worker.simulator.faults import FAULTS
from worker.simulator.journal import Entry
from worker.simulator.replies import PERSONAL_VALUES
from worker.simulator.rules import Outage, Rule
from worker.simulator.running import SimulatorThread, serve
from worker.simulator.scenario import BUILT_IN, Scenario, ScenarioError, parse_rule
from worker.simulator.server import Simulator, SimulatorError

__all__ = [
    "BUILT_IN",
    "FAULTS",
    "PERSONAL_VALUES",
    "Entry",
    "Outage",
    "Rule",
    "Scenario",
    "ScenarioError",
    "Simulator",
    "SimulatorError",
    "SimulatorThread",
    "parse_rule",
    "serve",
]
