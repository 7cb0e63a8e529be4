"""Connects step.py with the contract: JSON becomes dictionaries, and an exception becomes a failure with its message."""

import json
from contextlib import contextmanager

import pawl
import step
from wit_world import exports


@contextmanager
def exceptions_as_failures():
    try:
        yield
    except Exception as error:
        raise pawl.as_failure(error) from None


class Step(exports.Step):
    def describe(self):
        return json.dumps(step.DESCRIPTION)

    def preview(self, input):
        with exceptions_as_failures():
            return step.preview(json.loads(input))

    def apply(self, input):
        with exceptions_as_failures():
            return step.apply(json.loads(input))

    def probe(self, input):
        with exceptions_as_failures():
            return step.probe(json.loads(input))

    def revert(self, input, receipt):
        with exceptions_as_failures():
            step.revert(json.loads(input), receipt)
