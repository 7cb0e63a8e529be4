"""A host that lies: the command of every connection. It runs what it was asked to, and falsifies what the agent answers.

`python3 lying_agent.py FOLDER`. FOLDER/lie names the lie; FOLDER/heard gets all that the coordinator sends.
"""

import base64
import json
import os
import struct
import subprocess
import sys
import threading

FOLDER = sys.argv[1]
MARK = b"PAWL-AGENT\n"
OUT = sys.stdout.buffer


def frame(body, kind=0):
    body = body if isinstance(body, bytes) else json.dumps(body).encode()
    return struct.pack(">IB", len(body), kind) + body


def outcome(call, outcome):
    return frame({"say": "answer", "call": call, "answer": {"answer": "outcome", "outcome": outcome}})


def succeeded(call, outputs):
    return outcome(call, {"result": "succeeded", "receipt": {"outputs": outputs, "notes": {}}})


def log(call, text):
    progress = {"progress": "log", "level": "info", "message": text}
    return frame({"say": "progress", "call": call, "progress": progress})


def endless(piece):
    while True:
        yield piece


def lie(name, message, honest):
    """What is sent in place of a message."""
    say, call = message["say"], message.get("call")
    answer = message.get("answer", {}).get("answer")
    if say == "hello":
        if name == "other-build":
            return [frame({**message, "build": "0.1.0 of somebody else"})]
        if name == "two-greetings":
            return [honest, honest]
    if say == "begun":
        if name == "foreign-records":
            records = message["records"] + json.load(open(FOLDER + "/records"))
            return [frame({**message, "records": records})]
        if name in ("endless-messages", "long-output", "no-base64", "no-answer"):
            return [frame({**message, "records": []})]
        if name == "two-sessions":
            return [honest, honest]
    if answer == "checked":
        problem = {"code": "P0233", "message": "\x1b[2Jno room", "causes": ["x" * (1 << 20)] * 5, "hint": "\x1b]0;x\x07"}
        if name == "long-frame":
            return [struct.pack(">IB", 9 << 20, 0), endless(b"x" * 65536)]
        if name == "unknown-kind":
            return [frame(b"x", 7)]
        if name == "other-call":
            return [frame({**message, "call": call + 1000})]
        if name == "other-step":
            return [frame({**message, "answer": {"answer": "checked", "problems": [["backup", problem]]}})]
        if name == "long-problem":
            return [frame({**message, "answer": {"answer": "checked", "problems": [["restart", problem]]}})]
        if name == "secret-problem":
            problem = {**problem, "causes": [open(FOLDER + "/secret").read()]}
            return [frame({**message, "answer": {"answer": "checked", "problems": [["restart", problem]]}})]
    if answer == "input-hashes" and name == "many-inputs":
        hashes = {f"{number:06}": {"hash": "0" * 64} for number in range(50_000)}
        return [frame({**message, "answer": {"answer": "input-hashes", "hashes": hashes}})]
    if answer == "outcome":
        if name == "no-answer":
            return []
        if name == "secret-receipt":
            return [succeeded(call, {"found": open(FOLDER + "/secret").read()})]
        if name == "encoded-secret":
            secret = base64.b64encode(open(FOLDER + "/secret", "rb").read()).decode()
            return [succeeded(call, {"found": secret})]
        if name == "long-receipt":
            return [succeeded(call, {"found": "x" * (1 << 20)})]
        if name == "long-failure":
            failure = {"kind": "k" * (1 << 20), "message": "\x1b[2J" * (1 << 16), "details": {"x": "x" * (1 << 20)}}
            return [outcome(call, {"result": "failed", "failure": failure})]
        if name == "finding":
            return [frame({**message, "answer": {"answer": "finding", "finding": {"finding": "absent"}}})]
        if name == "endless-messages":
            return [endless(log(call, "x" * 1000))]
        if name == "long-output":
            output = {"say": "output", "call": call, "at": "2025-11-23T03:00:00Z", "stream": "stdout"}
            return [frame({**output, "bytes": "eHh4" * (1 << 20)})]
        if name == "no-base64":
            output = {"say": "output", "call": call, "at": "2025-11-23T03:00:00Z", "stream": "stdout"}
            return [frame({**output, "bytes": "###"})]
        if name == "bytes-after-the-end":
            return [honest, b"GET / HTTP/1.1\r\n\r\n" * 1000]
    return [honest]


def send(pieces):
    for piece in pieces:
        if isinstance(piece, bytes):
            OUT.write(piece)
            OUT.flush()
        else:
            send(piece)


def hear(agent):
    with open(FOLDER + "/heard", "ab") as heard:
        while data := os.read(0, 65536):
            heard.write(data)
            agent.write(data)
            agent.flush()
    agent.close()


def main():
    name = open(FOLDER + "/lie").read()
    command = ["/bin/sh", "-c", os.environ["SSH_ORIGINAL_COMMAND"]]
    agent = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    threading.Thread(target=hear, args=[agent.stdin], daemon=True).start()
    for line in agent.stdout:
        send([line])
        if line == MARK:
            break
    while len(head := agent.stdout.read(5)) == 5:
        length, kind = struct.unpack(">IB", head)
        body = agent.stdout.read(length)
        message = json.loads(body) if kind == 0 else {"say": "bytes"}
        send(lie(name, message, head + body))


try:
    main()
except BrokenPipeError:
    # The coordinator has had enough.
    os._exit(0)
