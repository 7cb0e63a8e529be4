"""Writes a greeting to a file in a granted directory."""

import pawl

DESCRIPTION = {
    "name": "my-step",
    "version": "0.1.0",
    "summary": "writes a greeting to a file",
    "config": {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "type": "object",
        "additionalProperties": False,
        "required": ["file", "name"],
        "properties": {
            "file": {"description": "The path of the file, `<granted directory>/<path>`.", "type": "string"},
            "name": {"description": "The name to greet.", "type": "string"},
        },
    },
    "needs": [{"capability": "dirs", "access": "rw", "reason": "holds the file"}],
    "phase": "commit",
    "repeatable": True,
    "probes": True,
    "reverts": True,
}


def preview(input):
    return [pawl.Change("update", input["config"]["file"], greeting(input))]


def apply(input):
    pawl.write_atomic(input["config"]["file"], greeting(input))
    return receipt(input)


def probe(input):
    file = input["config"]["file"]
    holds = pawl.exists(file) and pawl.read_text(file) == greeting(input)
    return pawl.Held(receipt(input)) if holds else pawl.Absent()


def revert(input, receipt):
    pawl.remove(input["config"]["file"])


def greeting(input):
    return f"Hello, {input['config']['name']}, from {input['release']['label']}\n"


def receipt(input):
    return pawl.receipt(outputs={"file": input["config"]["file"]})
