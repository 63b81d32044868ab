"""Clients of another language against a fresh server: the contract is more than our own Rust.

Four clients do the same work: Python with stubs generated from proto/, Python that knows nothing
and asks reflection (v1alpha), grpcurl (v1alpha too), and buf curl (reflection v1). They ingest,
classify, describe, subscribe, resume by cursor, read what a refusal says, and ask for health. What
was done is printed; anything that is not as the contract says ends with an error.

usage: interop.py SERVER_BINARY SCRATCH_DIRECTORY
"""

import atexit
import base64
import json
import os
import pathlib
import queue
import shutil
import signal
import subprocess
import sys
import threading
import time

import grpc
from google.protobuf import descriptor_pool, json_format, message_factory
from google.protobuf.json_format import MessageToDict
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)
from grpc_status import rpc_status

ROOT = pathlib.Path(__file__).resolve().parents[2]
PATIENCE = 30.0
ORG = "acme.okta.com"
ALL_VERDICTS = [1, 2, 3, 4, 5]
VERDICT_NAMES = [
    "VERDICT_FAILURE",
    "VERDICT_WARNING",
    "VERDICT_SUCCESS",
    "VERDICT_UNDETERMINED",
    "VERDICT_UNRELATED",
]
SERVICES = {
    "grpc.health.v1.Health",
    "provident.v1.ClassifierService",
    "provident.v1.EventService",
    "provident.v1.SubscriptionService",
}

done = 0


def check(what, found, expected):
    """Says what was done, and stops if it is not as expected."""
    global done
    if found != expected:
        sys.exit(f"interop: {what}: found {found!r}, expected {expected!r}")
    done += 1
    print(f"  ok  {what}")


def eventually(what, probe):
    """What a probe finds, once it finds something."""
    deadline = time.monotonic() + PATIENCE * 2
    while time.monotonic() < deadline:
        found = probe()
        if found:
            return found
        time.sleep(0.02)
    sys.exit(f"{pathlib.Path(sys.argv[0]).stem}: not in time: {what}")


def log_event(number, event_type="application.provision.user.deactivate"):
    """A System Log entry of made-up people."""
    return {
        "uuid": f"{number:08x}-1c0d-11f1-8000-00000000f00d",
        "published": "2026-03-01T10:00:00.000Z",
        "eventType": event_type,
        "version": "0",
        "severity": "ERROR",
        "displayMessage": "Deactivate user in Cloudboard",
        "outcome": {"result": "FAILURE", "reason": "429 Too Many Requests"},
        "actor": {"id": "00u1", "type": "SystemPrincipal", "displayName": "Okta System"},
        "target": [
            {"id": "0ua1", "type": "AppUser", "displayName": "Ada Example"},
            {"id": "0oa1", "type": "AppInstance", "displayName": "Cloudboard"},
        ],
        "transaction": {"type": "JOB", "id": f"tid{number}", "detail": {}},
    }


def encoded(event):
    return json.dumps(event).encode()


class Server:
    """A server on ports of its own, unless one is given for gRPC."""

    def __init__(self, binary, data_dir, grpc_addr="127.0.0.1:0", settings=None):
        ours = ("PROVIDENT_", "OTEL_")
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith(ours)
        } | (settings or {})
        self.process = subprocess.Popen(
            [
                binary, "serve", "--log-format", "json", "--data-dir", str(data_dir),
                "--grpc-addr", grpc_addr, "--admin-addr", "127.0.0.1:0",
            ],
            stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL,
            env=environment, text=True,
        )
        # Also when a check fails.
        atexit.register(self.process.kill)
        lines = queue.Queue()
        self.log = []

        def read():
            for line in self.process.stderr:
                self.log.append(line)
                lines.put(line)
            lines.put(None)

        threading.Thread(target=read, daemon=True).start()
        while True:
            line = lines.get(timeout=PATIENCE)
            if line is None:
                sys.exit(f"interop: the server ended with {self.process.wait()}")
            try:
                fields = json.loads(line).get("fields", {})
            except ValueError:
                continue
            if fields.get("message") == "listening":
                self.address = fields["grpc_addr"]
                self.admin = fields["admin_addr"]
                self.hooks = fields.get("http_addr")
                break

    def wait_until_serving(self, channel):
        health = health_pb2_grpc.HealthStub(channel)

        def serves():
            try:
                answer = health.Check(health_pb2.HealthCheckRequest(), timeout=PATIENCE)
                return answer.status == health_pb2.HealthCheckResponse.SERVING
            except grpc.RpcError:
                return False

        eventually("the server serves", serves)


class Stubs:
    """Python with generated stubs."""

    def __init__(self, channel, scratch):
        from grpc_tools import protoc

        generated = scratch / "generated"
        generated.mkdir(parents=True, exist_ok=True)
        well_known = pathlib.Path(protoc.__file__).parent / "_proto"
        protos = sorted((ROOT / "proto").rglob("*.proto"))
        status = protoc.main(
            ["protoc", f"-I{ROOT / 'proto'}", f"-I{well_known}"]
            + [f"--python_out={generated}", f"--grpc_python_out={generated}"]
            + [str(proto) for proto in protos]
        )
        check(f"protoc compiles {len(protos)} files", status, 0)
        sys.path.insert(0, str(generated))
        from provident.v1 import (
            classifier_service_pb2,
            classifier_service_pb2_grpc,
            event_service_pb2,
            event_service_pb2_grpc,
        )

        self.modules = (event_service_pb2, classifier_service_pb2)
        self.events = event_service_pb2_grpc.EventServiceStub(channel)
        self.classifier = classifier_service_pb2_grpc.ClassifierServiceStub(channel)

    def message(self, name, fields):
        for module in self.modules:
            if hasattr(module, name):
                return json_format.ParseDict(fields, getattr(module, name)())
        raise KeyError(name)

    def call(self, service, method, request, fields):
        stub = self.events if service == "EventService" else self.classifier
        return getattr(stub, method)(self.message(request, fields), timeout=PATIENCE)


class Reflected:
    """Python that learns everything from the server."""

    def __init__(self, channel):
        self.channel = channel
        self.database = ProtoReflectionDescriptorDatabase(channel)
        self.pool = descriptor_pool.DescriptorPool(self.database)

    def call(self, service, method, request, fields):
        found = self.pool.FindServiceByName(f"provident.v1.{service}").FindMethodByName(method)
        request_class = message_factory.GetMessageClass(found.input_type)
        response_class = message_factory.GetMessageClass(found.output_type)
        path = f"/provident.v1.{service}/{method}"
        invoke = self.channel.unary_stream if found.server_streaming else self.channel.unary_unary
        callable_ = invoke(
            path,
            request_serializer=request_class.SerializeToString,
            response_deserializer=response_class.FromString,
        )
        return callable_(json_format.ParseDict(fields, request_class()), timeout=PATIENCE)


def as_json(event):
    return base64.b64encode(encoded(event)).decode()


def refusal(call):
    """The code and the ErrorInfo of a call that is refused."""
    try:
        answer = call()
        if hasattr(answer, "__iter__"):
            list(answer)
    except grpc.RpcError as error:
        status = rpc_status.from_call(error)
        for detail in status.details:
            info = error_details_pb2.ErrorInfo()
            if detail.Is(info.DESCRIPTOR):
                detail.Unpack(info)
                return error.code().name, info.reason, info.domain
        return error.code().name, None, None
    return "OK", None, None


def exercise(name, client, first):
    """What a service team does, with events `first`, `first + 1` and `first + 2`."""
    print(f"{name}:")
    statuses = lambda response: [
        result["status"].removeprefix("INGEST_STATUS_")
        for result in MessageToDict(response)["results"]
    ]
    inputs = [{"json": as_json(log_event(first))}, {"json": as_json({"no": "event"})}]
    inputs.append({"json": as_json([log_event(first + 1), log_event(first + 2)])})
    request = {"org": ORG, "inputs": inputs}
    ingest = lambda: client.call("EventService", "Ingest", "IngestRequest", request)
    answer = ingest()
    expected = ["ACCEPTED", "REJECTED", "ACCEPTED", "ACCEPTED"]
    check("Ingest takes events, and refuses what is none", statuses(answer), expected)
    error = MessageToDict(answer)["results"][1]["error"]
    found = (error["reason"], error["field"])
    check("the refusal names its reason and field", found,
          ("ERROR_REASON_EVENT_MALFORMED", "eventType"))
    expected = ["DUPLICATE", "REJECTED", "DUPLICATE", "DUPLICATE"]
    check("Ingest again keeps nothing twice", statuses(ingest()), expected)
    cursors = [result.get("cursor") for result in MessageToDict(answer)["results"]]

    said = client.call(
        "ClassifierService", "Classify", "ClassifyRequest", {"json": as_json(log_event(99))}
    )
    said = MessageToDict(said)["classification"]
    found = (said["verdict"], said["cause"], said["securityRelevant"])
    check("Classify says what it means", found, ("VERDICT_FAILURE", "CAUSE_RATE_LIMITED", True))
    described = client.call(
        "ClassifierService", "Describe", "DescribeRequest",
        {"event_type": "application.provision.user.deactivate"},
    )
    found = MessageToDict(described)["eventType"]["removesAccess"]
    check("Describe knows the type", found, True)

    def subscribe(start):
        fields = {"filter": {"verdicts": ALL_VERDICTS}, "stop_at_head": True, "include_raw": True}
        stream = client.call("EventService", "Subscribe", "SubscribeRequest", fields | start)
        return [MessageToDict(message) for message in stream]

    def events(messages):
        return [event for message in messages for event in message.get("batch", {}).get("events", [])]

    messages = subscribe({"position": "POSITION_EARLIEST"})
    check("Subscribe confirms first", next(iter(messages[0])), "confirmation")
    reason = messages[-1]["ending"]["reason"]
    check("Subscribe ends at the head", reason, "ENDING_REASON_HEAD_REACHED")
    mine = events(messages)[-3:]
    uuids = [log_event(first + index)["uuid"] for index in range(3)]
    check("Subscribe gives the events in order", [e["event"]["uuid"] for e in mine], uuids)
    raw = json.loads(mine[0]["rawJson"])
    check("and what Okta sent", raw, log_event(first))
    rest = events(subscribe({"cursor": cursors[0]}))
    check("Subscribe resumes after a cursor", [e["event"]["uuid"] for e in rest], uuids[1:])
    check("and at the end there is nothing", events(subscribe({"cursor": cursors[3]})), [])

    bad = lambda: client.call(
        "EventService", "Subscribe", "SubscribeRequest", {"cursor": "no cursor"}
    )
    check("a refused call has its reason in the details", refusal(bad),
          ("INVALID_ARGUMENT", "CURSOR_MALFORMED", "provident.dev"))
    unknown = lambda: client.call(
        "ClassifierService", "Describe", "DescribeRequest", {"application": "Salesfroce"}
    )
    check("what is not known is NOT_FOUND", refusal(unknown),
          ("NOT_FOUND", "APPLICATION_UNKNOWN", "provident.dev"))


def output_of(command):
    answer = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE * 2)
    if answer.returncode != 0:
        sys.exit(f"interop: {command}: exit code {answer.returncode}\n{answer.stderr}")
    return answer.stdout


def documents(text):
    """JSON documents one after the other."""
    decoder, found, at = json.JSONDecoder(), [], 0
    while at < len(text):
        document, end = decoder.raw_decode(text, at)
        found.append(document)
        at = end
        while at < len(text) and text[at].isspace():
            at += 1
    return found


def exercise_tool(name, list_services, call, first):
    """The same with a tool of the command line, whose answers are JSON."""
    print(f"{name}:")
    services = set(list_services())
    check("lists the services", SERVICES - services, set())
    request = {"json": as_json(log_event(first))}
    (answer,) = call("ClassifierService/Classify", request)
    check("Classify", answer["classification"]["cause"], "CAUSE_RATE_LIMITED")
    request = {"org": ORG, "inputs": [{"json": as_json(log_event(first + i))} for i in range(2)]}
    (answer,) = call("EventService/Ingest", request)
    found = [result["status"] for result in answer["results"]]
    check("Ingest", found, ["INGEST_STATUS_ACCEPTED"] * 2)
    cursor = answer["results"][0]["cursor"]
    request = {"cursor": cursor, "stopAtHead": True, "filter": {"verdicts": VERDICT_NAMES}}
    messages = call("EventService/Subscribe", request)
    uuids = [
        event["event"]["uuid"]
        for message in messages
        for event in message.get("batch", {}).get("events", [])
    ]
    check("Subscribe resumes after a cursor", uuids, [log_event(first + 1)["uuid"]])
    ending = messages[-1]["ending"]["reason"]
    check("Subscribe ends at the head", ending, "ENDING_REASON_HEAD_REACHED")


def grpcurl(address, first):
    tool = [shutil.which("grpcurl"), "-plaintext"]
    call = lambda method, request: documents(
        output_of(tool + ["-d", json.dumps(request), address, f"provident.v1.{method}"])
    )
    services = lambda: output_of(tool + [address, "list"]).split()
    exercise_tool("grpcurl, reflection v1alpha", services, call, first)


def buf_curl(address, first):
    tool = [shutil.which("buf"), "curl", "--protocol", "grpc", "--http2-prior-knowledge"]
    url = f"http://{address}"
    call = lambda method, request: documents(
        output_of(
            tool + ["--reflect", "-d", json.dumps(request), f"{url}/provident.v1.{method}"]
        )
    )
    services = lambda: output_of(tool + ["--list-services", url]).split()
    exercise_tool("buf curl, reflection v1", services, call, first)


def main():
    binary, scratch = sys.argv[1], pathlib.Path(sys.argv[2])
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    # The tools beside this interpreter, whether its environment was activated or not.
    beside = str(pathlib.Path(sys.executable).parent)
    os.environ["PATH"] = beside + os.pathsep + os.environ["PATH"]
    server = Server(binary, scratch / "data")
    try:
        with grpc.insecure_channel(server.address) as channel:
            server.wait_until_serving(channel)
            exercise("Python, generated stubs", Stubs(channel, scratch), 100)
            reflected = Reflected(channel)
            services = set(reflected.database.get_services())
            exercise("Python, reflection only", reflected, 200)
            check("reflection names the services", SERVICES - services, set())
        grpcurl(server.address, 300)
        buf_curl(server.address, 400)
        server.process.send_signal(signal.SIGTERM)
        check("SIGTERM ends the server", server.process.wait(timeout=PATIENCE), 0)
    finally:
        server.process.kill()
    print(f"interop: {done} checks, none failed")


if __name__ == "__main__":
    main()
