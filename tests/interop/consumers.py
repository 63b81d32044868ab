"""The examples of consumers, in five languages, while they and the server are killed again and again.

Each has a subscription of its own. In the end each has handled every event, in order; what came
twice came after a kill of that consumer, and was not committed before. A second reader then ends
each for good. What was done is printed; anything else ends with an error.

usage: consumers.py SERVER_BINARY RUST_CONSUMER GO_CONSUMER JAVA_CLASS_PATH NODE_MODULES SCRATCH_DIRECTORY
"""

import atexit
import os
import pathlib
import random
import shutil
import signal
import socket
import subprocess
import sys
import time

import grpc

from interop import ORG, PATIENCE, ROOT, Server, Stubs, check, encoded, eventually, log_event

ROUNDS = 10
BATCH = 60


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


class Consumer:
    """One of the examples, run after run."""

    def __init__(self, name, command, environment, scratch):
        self.name = name
        self.command = command
        self.environment = environment
        self.scratch = scratch
        self.runs = []
        self.process = None

    def start(self):
        out = self.scratch / f"{self.name}-{len(self.runs)}.out"
        self.errors = out.with_suffix(".err")
        self.runs.append(out)
        with open(out, "wb") as stdout, open(self.errors, "wb") as stderr:
            self.process = subprocess.Popen(
                self.command, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr,
                env=os.environ | self.environment,
            )
        atexit.register(self.process.kill)

    def kill(self):
        self.process.kill()
        self.process.wait()

    def handled(self, run=-1):
        """Sequences and uuids of one run, without a line that is still being written."""
        text = self.runs[run].read_text()
        lines = text[: text.rfind("\n") + 1].splitlines()
        return [(int(sequence), uuid) for sequence, uuid in map(str.split, lines)]

    def must_run(self):
        if self.process.poll() is not None:
            sys.exit(f"consumers: {self.name} ended: {self.errors.read_text()}")


def main():
    binary, rust, go, java, node_modules, scratch = sys.argv[1:]
    scratch = pathlib.Path(scratch)
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    seed = int(os.environ.get("PROVIDENT_SEED") or time.time())
    print(f"consumers: PROVIDENT_SEED={seed}")
    choose = random.Random(seed)

    address = f"127.0.0.1:{free_port()}"
    data = scratch / "data"
    start_server = lambda: Server(binary, data, address)
    server = start_server()
    channel = grpc.insecure_channel(address)
    server.wait_until_serving(channel)
    stubs = Stubs(channel, scratch)
    from provident.v1 import (
        event_service_pb2,
        subscription_service_pb2,
        subscription_service_pb2_grpc,
    )

    subscriptions = subscription_service_pb2_grpc.SubscriptionServiceStub(channel)

    def subscription(name):
        request = subscription_service_pb2.GetSubscriptionRequest(subscription_id=name)
        return subscriptions.GetSubscription(request, timeout=PATIENCE).subscription

    # Modules are looked for beside the program.
    node = scratch / "node"
    node.mkdir()
    shutil.copy(ROOT / "examples/node/consumer.js", node)
    (node / "node_modules").symlink_to(pathlib.Path(node_modules).resolve())
    python_path = {"PYTHONPATH": str(scratch / "generated")}
    python = [sys.executable, str(ROOT / "examples/python/consumer.py"), address, "python"]
    consumers = [
        Consumer("rust", [rust, f"http://{address}", "rust"], {}, scratch),
        Consumer("python", python, python_path, scratch),
        Consumer("go", [go, address, "go"], {}, scratch),
        Consumer("java", ["java", "-cp", java, "Consumer", address, "java"], {}, scratch),
        Consumer("node", ["node", str(node / "consumer.js"), address, "node", str(ROOT / "proto")], {}, scratch),
    ]
    for consumer in consumers:
        consumer.start()

    uuids, places = [], {}
    # Where each run of a consumer has to begin: behind what was committed when it started.
    begins = {consumer.name: [1] for consumer in consumers}
    kills = {"server": 0} | {consumer.name: 0 for consumer in consumers}

    def ingest():
        first = len(uuids)
        batch = [log_event(first + index) for index in range(BATCH)]
        inputs = [event_service_pb2.IngestInput(json=encoded(event)) for event in batch]
        request = event_service_pb2.IngestRequest(org=ORG, inputs=inputs)
        for event, result in zip(batch, stubs.events.Ingest(request, timeout=PATIENCE).results):
            uuids.append(event["uuid"])
            places[result.cursor] = result.sequence

    def has_handled(consumer, count):
        def probe():
            consumer.must_run()
            handled = consumer.handled()
            return handled and handled[-1][0] >= count

        eventually(f"{consumer.name} handles {count} events", probe)

    for number in range(ROUNDS):
        ingest()
        if choose.random() < 0.5:
            # Somewhere within the batch, or after it.
            has_handled(choose.choice(consumers), len(uuids) - choose.randrange(BATCH))
        server.process.kill()
        server.process.wait()
        kills["server"] += 1
        server = start_server()
        server.wait_until_serving(channel)
        ingest()
        consumer = consumers[number % len(consumers)]
        if choose.random() < 0.5:
            has_handled(consumer, len(uuids) - choose.randrange(BATCH))
        consumer.kill()
        kills[consumer.name] += 1
        # Nobody reads as it now, so this stands until it is started.
        try:
            committed = places.get(subscription(consumer.name).committed_cursor, 0)
        except grpc.RpcError as error:
            # Killed before it could make its subscription.
            check("the subscription is not made yet", error.code(), grpc.StatusCode.NOT_FOUND)
            committed = 0
        begins[consumer.name].append(committed + 1)
        consumer.start()
    ingest()
    print(f"kills: {kills}, events: {len(uuids)}")
    for consumer in consumers:
        has_handled(consumer, len(uuids))
        consumer.process.send_signal(signal.SIGTERM)
        ended = consumer.process.wait(timeout=PATIENCE)
        check(f"{consumer.name} ends well when told to", (ended, consumer.errors.read_text().count("FENCED")), (0, 0))
        reached = 1
        for run, earliest in enumerate(begins[consumer.name]):
            handled = consumer.handled(run)
            # A commit that was under way at the kill may have come later than we asked.
            begin = handled[0][0] if handled else earliest
            if begin < earliest:
                sys.exit(f"consumers: {consumer.name} was given again what it had committed: {begin}")
            expected = [(begin + index, uuids[begin + index - 1]) for index in range(len(handled))]
            if handled != expected:
                sys.exit(f"consumers: run {run} of {consumer.name}, from {begin}: {handled}")
            # What begins a run was not reached before, or it was and comes again.
            if begin > reached:
                sys.exit(f"consumers: {consumer.name} left out {reached} to {begin - 1}")
            reached = max(reached, begin + len(handled))
        check(f"{consumer.name} handled every event, in order", reached, len(uuids) + 1)
        check(f"{consumer.name} committed them", subscription(consumer.name).lag_events, 0)

    for consumer in consumers:
        consumer.start()
        eventually(
            f"{consumer.name} reads",
            lambda: subscription(consumer.name).active_reader.reader,
        )
        request = event_service_pb2.SubscribeRequest(subscription_id=consumer.name, reader="second")
        second = stubs.events.Subscribe(request)
        check("a second reader comes", next(second).HasField("confirmation"), True)
        ended = consumer.process.wait(timeout=PATIENCE)
        errors = consumer.errors.read_text()
        check(f"{consumer.name} ends for good", (ended, "FENCED" in errors), (1, True))
        reader = subscription(consumer.name).active_reader.reader
        check("and does not throw the second off", reader, "second")
        second.cancel()
    server.process.send_signal(signal.SIGTERM)
    check("the server ends well", server.process.wait(timeout=PATIENCE), 0)


if __name__ == "__main__":
    main()
