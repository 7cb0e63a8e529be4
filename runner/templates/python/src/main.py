"""Between step.py and the contract: JSON becomes dictionaries, and whatever is raised becomes a failure with its message."""

import json
from contextlib import contextmanager

import pawl
import step
from wit_world import exports


@contextmanager
def told():
    try:
        yield
    except Exception as error:
        raise pawl.as_failure(error) from None


class Step(exports.Step):
    def describe(self):
        return json.dumps(step.DESCRIPTION)

    def preview(self, input):
        with told():
            return step.preview(json.loads(input))

    def apply(self, input):
        with told():
            return step.apply(json.loads(input))

    def probe(self, input):
        with told():
            return step.probe(json.loads(input))

    def revert(self, input, receipt):
        with told():
            step.revert(json.loads(input), receipt)
