"""Evaluates flags with openfeature-flagd-core, flagd's own evaluator: none of our code takes part.

Each line of standard input is JSON: `flags`, a flag file as text, `timestamp`, what its clock says in seconds, and `asks`, a
list of `flag`, `type` (boolean, string, integer, float, object), `context` and, in it, `targetingKey`.
Each line of standard output is a list, with for each of these `variant`, `value` and `reason`, or `reason` and `code`.
Where the caller's default holds, `variant` and `value` are null. What is no error of OpenFeature's own counts as GENERAL, as
it does in OpenFeature's client. A file that is refused is `refused` and the reason.
"""

import json
import logging
import sys
import types

from openfeature.contrib.tools.flagd.core import FlagdCore
from openfeature.contrib.tools.flagd.core.targeting import targeting
from openfeature.evaluation_context import EvaluationContext
from openfeature.exception import OpenFeatureError

DEFAULTS = {"boolean": False, "string": "", "integer": 0, "float": 0.0, "object": {}}


def set_clock(timestamp):
    """The time is a fact of the evaluation: the evaluator's module gets a clock that stands still."""
    module = sys.modules["openfeature.contrib.tools.flagd.core.targeting.targeting"]
    module.time = types.SimpleNamespace(time=lambda: timestamp)


def evaluated(core, ask):
    attributes = dict(ask["context"])
    context = EvaluationContext(attributes.pop("targetingKey", None), attributes)
    resolve = getattr(core, f"resolve_{ask['type']}_value")
    try:
        details = resolve(ask["flag"], DEFAULTS[ask["type"]], context)
    except OpenFeatureError as error:
        return {"reason": "ERROR", "code": error.error_code}
    except Exception:
        return {"reason": "ERROR", "code": "GENERAL"}
    value = None if details.variant is None else details.value
    metadata = dict(details.flag_metadata)
    return {"variant": details.variant, "value": value, "reason": details.reason, "metadata": metadata}


logging.disable(logging.CRITICAL)
for line in sys.stdin:
    given = json.loads(line)
    set_clock(given["timestamp"])
    core = FlagdCore()
    try:
        core.set_flags(given["flags"])
    except Exception as error:
        answer = {"refused": repr(error)}
    else:
        answer = [evaluated(core, ask) for ask in given["asks"]]
    print(json.dumps(answer), flush=True)
