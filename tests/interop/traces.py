"""Traces of the real server, read with OpenTelemetry's own Python messages.

A collector of our own takes OTLP over HTTP. Calls come with a trace and without one, by gRPC, by the
event hook and by polling an org of our own; then the collector fails, and comes back. What was done is
printed; anything else ends with an error.

usage: traces.py SERVER_BINARY SCRATCH_DIRECTORY
"""

import base64
import itertools
import pathlib
import shutil
import signal
import sys
import threading
import urllib.error
import urllib.request

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2
from opentelemetry.proto.trace.v1 import trace_pb2

from interop import ORG, PATIENCE, Server, Stubs, check, encoded, eventually, log_event

# Python knows the folder of the script alone.
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from loopback import Loopback

SERVER, CLIENT = trace_pb2.Span.SPAN_KIND_SERVER, trace_pb2.Span.SPAN_KIND_CLIENT
ERROR = trace_pb2.Status.STATUS_CODE_ERROR
INGEST = "provident.v1.EventService/Ingest"
SUBSCRIBE = "provident.v1.EventService/Subscribe"
SECRET = "s3cret of the hook"

next_caller = 0


class Caller:
    """A trace that begins elsewhere."""

    def __init__(self, recorded=True):
        global next_caller
        next_caller += 1
        self.trace = f"{next_caller:032x}"
        self.span = f"{next_caller:016x}"
        self.traceparent = f"00-{self.trace}-{self.span}-{'01' if recorded else '00'}"

    @property
    def metadata(self):
        return [("traceparent", self.traceparent), ("tracestate", "team=blue")]


class Collector:
    """What has come of spans, with what their resource says."""

    def __init__(self):
        self.spans, self.resources, self.headers, self.status = [], [], [], 200
        self.answers = threading.Event()
        self.answers.set()
        self.url = Loopback(self.answer).url

    def answer(self, _method, path, headers, body):
        self.answers.wait()
        if self.status != 200:
            return self.status, [], b""
        if path != "/v1/traces" or headers["Content-Type"] != "application/x-protobuf":
            return 404, [], b""
        request = trace_service_pb2.ExportTraceServiceRequest.FromString(body)
        self.headers.append(headers)
        for of_resource in request.resource_spans:
            self.resources.append(attributes(of_resource.resource))
            for of_scope in of_resource.scope_spans:
                self.spans.extend(of_scope.spans)
        answer = trace_service_pb2.ExportTraceServiceResponse().SerializeToString()
        return 200, [("Content-Type", "application/x-protobuf")], answer

    def find(self, name, trace=None):
        return [
            span
            for span in list(self.spans)
            if span.name == name and (trace is None or span.trace_id.hex() == trace)
        ]

    def of(self, caller):
        return [span for span in list(self.spans) if span.trace_id.hex() == caller.trace]

    def wait_for(self, name, trace=None):
        return eventually(f"a span {name!r} of {trace}", lambda: self.find(name, trace))


class Org:
    """A System Log of one page, which it gives to whoever asks; and with which headers it was asked."""

    def __init__(self):
        self.asked = []
        self.url = Loopback(self.answer).url

    def answer(self, _method, path, headers, _body):
        is_first = "after=" not in path
        self.asked.append(headers)
        page = [log_event(7_000)] if is_first else []
        link = f'<{self.url}/api/v1/logs?after=1>; rel="next"'
        return 200, [("Link", link), ("Content-Type", "application/json")], encoded(page)


def attributes(of):
    return {
        found.key: getattr(found.value, found.value.WhichOneof("value")) for found in of.attributes
    }


def post(url, body, headers):
    try:
        with urllib.request.urlopen(
            urllib.request.Request(url, body, headers), timeout=PATIENCE
        ) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


def metric(server, line):
    with urllib.request.urlopen(f"http://{server.admin}/metrics", timeout=PATIENCE) as answer:
        for found in answer.read().decode().splitlines():
            if found.startswith(line + " "):
                return float(found.rsplit(" ", 1)[1])
    return None


class Running:
    """A server that sends traces to a collector, and a client with stubs."""

    def __init__(self, binary, scratch, name, collector, settings=None):
        soon = "200"
        endpoint = {"PROVIDENT_TRACING_ENDPOINT": collector.url, "OTEL_BSP_SCHEDULE_DELAY": soon}
        self.server = Server(binary, scratch / name, settings=endpoint | (settings or {}))
        self.channel = grpc.insecure_channel(self.server.address)
        self.server.wait_until_serving(self.channel)

    def stop(self):
        self.channel.close()
        self.server.process.send_signal(signal.SIGTERM)
        check("the server ends with 0", self.server.process.wait(PATIENCE), 0)


def ingest(stubs, first, metadata=(), events=2, timeout=PATIENCE):
    json = lambda number: base64.b64encode(encoded(log_event(number))).decode()
    inputs = [{"json": json(number)} for number in range(first, first + events)]
    request = stubs.message("IngestRequest", {"org": ORG, "inputs": inputs})
    return stubs.events.Ingest(request, timeout=timeout, metadata=metadata)


def follow(stubs, metadata):
    """A reader that is up to date."""
    fields = {"position": "POSITION_LATEST", "filter": {"verdicts": ["VERDICT_FAILURE"]}}
    request = stubs.message("SubscribeRequest", fields)
    stream = stubs.events.Subscribe(request, timeout=600, metadata=metadata)
    for message in stream:
        if message.WhichOneof("message") == "caught_up":
            return stream
    sys.exit("traces: the reader is not told that it is up to date")


def read(stream, events):
    while events > 0:
        message = next(stream)
        if message.WhichOneof("message") == "batch":
            events -= len(message.batch.events)


def below(collector, parent, name):
    [span] = [
        span
        for span in collector.wait_for(name, parent.trace_id.hex())
        if span.parent_span_id == parent.span_id
    ]
    return span


def in_order(*spans):
    """Whether each began and ended no earlier than the one before."""
    times = [(span.start_time_unix_nano, span.end_time_unix_nano) for span in spans]
    return all(
        start <= end and before[0] <= start and before[1] <= end
        for before, (start, end) in zip([(0, 0), *times], times)
    )


def way_in(collector, parent, events):
    """The steps of what was taken in, up to its delivery to one reader."""
    classify = below(collector, parent, "classify")
    flush = below(collector, parent, "flush")
    deliver = below(collector, parent, "deliver")
    for span in (classify, flush, deliver):
        check(f"  {span.name} tells of its events", attributes(span)["provident.events"], events)
    check("  one follows the other", in_order(classify, flush, deliver), True)
    return deliver


def calls(binary, scratch, collector):
    settings = {
        "PROVIDENT_HOOK_SECRET": SECRET,
        "PROVIDENT_HTTP_ADDR": "127.0.0.1:0",
        "OTEL_EXPORTER_OTLP_HEADERS": "authorization=Bearer%20t0ken",
        "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=test",
    }
    running = Running(binary, scratch, "calls", collector, settings)
    stubs = Stubs(running.channel, scratch)

    print("a call with a trace:")
    reader, caller = Caller(), Caller()
    stream = follow(stubs, reader.metadata)
    ingest(stubs, 1, caller.metadata)
    read(stream, 2)
    [call] = collector.wait_for(INGEST, caller.trace)
    found = (call.parent_span_id.hex(), call.kind)
    check("its span is below its caller's", found, (caller.span, SERVER))
    expected = {
        "rpc.system.name": "grpc", "rpc.method": INGEST, "rpc.response.status_code": "OK",
    }
    check("it is named by the conventions", attributes(call), expected)
    deliver = way_in(collector, call, 2)
    [opened] = collector.wait_for(SUBSCRIBE, reader.trace)
    check("the reader's call is in its own trace", opened.parent_span_id.hex(), reader.span)
    check("and linked to", [link.span_id for link in deliver.links], [opened.span_id])
    states = {span.trace_state for span in collector.of(caller)}
    check("what callers say of their trace is kept", states, {"team=blue"})

    print("a trace that its caller does not record:")
    silent = Caller(recorded=False)
    ingest(stubs, 11, silent.metadata)
    read(stream, 2)

    print("a call without a trace:")
    ingest(stubs, 21)
    read(stream, 2)
    roots = lambda: [span for span in collector.find(INGEST) if not span.parent_span_id]
    [own] = eventually("a trace of our own", roots)
    way_in(collector, own, 2)
    check("nothing of the other has come", collector.of(silent), [])

    print("events that are known:")
    again = Caller()
    ingest(stubs, 1, again.metadata)
    collector.wait_for("flush", again.trace)

    print("a call that is refused, and one of a method that there is not:")
    refused, unknown = Caller(), Caller()
    try:
        stubs.events.Subscribe(
            stubs.message("SubscribeRequest", {}), timeout=PATIENCE, metadata=refused.metadata
        ).next()
        sys.exit("traces: a stream from nowhere was opened")
    except grpc.RpcError:
        pass
    [span] = collector.wait_for(SUBSCRIBE, refused.trace)
    found = (attributes(span)["rpc.response.status_code"], span.status.code)
    check("the caller's mistake is no error of ours", found, ("INVALID_ARGUMENT", 0))
    try:
        running.channel.unary_unary("/provident.v1.EventService/Guess" + "x" * 100)(
            b"", timeout=PATIENCE, metadata=unknown.metadata
        )
        sys.exit("traces: a method that there is not was called")
    except grpc.RpcError:
        pass
    [span] = collector.wait_for("_OTHER", unknown.trace)
    found = (attributes(span)["rpc.method"], span.status.code)
    check("its name is not taken over", found, ("_OTHER", ERROR))

    print("a call that its caller gives up:")
    waits, asked = itertools.cycle(range(2, 60, 2)), []

    def given_up():
        """One with so much to read that its caller may have gone meanwhile."""
        asked.append(Caller())
        try:
            ingest(stubs, 10_000, asked[-1].metadata, events=1000, timeout=next(waits) / 1000)
        except grpc.RpcError:
            pass
        spans = [span for caller in asked for span in collector.find(INGEST, caller.trace)]
        return "CANCELLED" in [attributes(span)["rpc.response.status_code"] for span in spans]

    stream.cancel()
    eventually("a span says so", given_up)

    print("an event hook:")
    stream = follow(stubs, Caller().metadata)
    by_hook, stranger = Caller(), Caller()
    url = f"http://{running.server.hooks}/hooks/okta"
    source = f"https://{ORG}/api/v1/eventHooks/who1"
    delivery = {"eventType": "com.okta.event_hook", "source": source}
    delivery = encoded(delivery | {"data": {"events": [log_event(31)]}})
    headers = {"Authorization": "guessed", "traceparent": stranger.traceparent}
    check("a stranger is refused", post(url, delivery, headers), 401)
    headers = {"Authorization": SECRET, "traceparent": by_hook.traceparent}
    check("Okta is not", post(url, delivery, headers), 204)
    read(stream, 1)
    [hook] = collector.wait_for("POST /hooks/okta", by_hook.trace)
    found = (hook.parent_span_id.hex(), hook.kind)
    check("its span is below the ingress's", found, (by_hook.span, SERVER))
    expected = {"http.request.method": "POST", "http.response.status_code": 204}
    check("it is named by the conventions", attributes(hook), expected)
    way_in(collector, hook, 1)
    check("a stranger makes no trace", collector.of(stranger), [])

    print("probes:")
    health = health_pb2_grpc.HealthStub(running.channel)
    probe = Caller()
    health.Check(health_pb2.HealthCheckRequest(), timeout=PATIENCE, metadata=probe.metadata)
    stream.cancel()
    running.stop()
    check("probes make no trace", collector.of(probe), [])
    check("known events are not delivered again", collector.find("deliver", again.trace), [])
    keys = ("service.name", "deployment.environment.name")
    found = {tuple(resource[key] for key in keys) for resource in collector.resources}
    check("who we are", found, {("provident", "test")})
    found = {headers["authorization"] for headers in collector.headers}
    check("headers come along", found, {"Bearer t0ken"})


def polling(binary, scratch, collector):
    print("polling:")
    org = Org()
    settings = {
        "PROVIDENT_OKTA_ORG_URL": org.url,
        "PROVIDENT_OKTA_API_TOKEN": "00token",
        "PROVIDENT_ORGS": f"{ORG}=127.0.0.1",
    }
    running = Running(binary, scratch, "polling", collector, settings)
    [classify] = collector.wait_for("classify")
    trace = classify.trace_id.hex()
    [poll] = collector.wait_for("poll", trace)
    request = below(collector, poll, "GET /api/v1/logs")
    check("a poll begins a trace", (poll.parent_span_id, request.kind), (b"", CLIENT))
    check("of one org", attributes(poll), {"provident.org": ORG})
    expected = f"00-{trace}-{request.span_id.hex()}-01"
    check("of which the org is told", org.asked[0]["traceparent"], expected)
    check("and of no more", org.asked[0]["tracestate"], None)
    [page] = [s for s in collector.find("flush", trace) if attributes(s)["provident.events"] == 1]
    check("what it brings is a part of it", in_order(request, classify, page), True)
    running.stop()


def failing(binary, scratch, collector):
    print("a collector that fails:")
    collector.status = 400
    running = Running(binary, scratch, "failing", collector)
    stubs = Stubs(running.channel, scratch)
    spans = lambda status: metric(
        running.server, f'provident_trace_spans_total{{status="{status}"}}'
    )
    ingest(stubs, 1)
    eventually("what is lost is counted", lambda: spans("failed"))
    ingest(stubs, 5)
    eventually("it is counted each time", lambda: spans("failed") == spans("ended") >= 6)
    collector.status = 200
    caller = Caller()
    ingest(stubs, 11, caller.metadata)
    collector.wait_for(INGEST, caller.trace)
    eventually("what comes after is not lost", lambda: spans("exported"))
    running.stop()
    said = [line for line in running.server.log if "traces are" in line]
    check("it is said once, and once that it is over", len(said), 2)
    check("and why", "400" in said[0], True)


def hanging(binary, scratch, collector):
    print("a collector that never answers:")
    collector.answers.clear()
    few = {"OTEL_BSP_MAX_QUEUE_SIZE": "16", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "4"}
    running = Running(binary, scratch, "hanging", collector, few)
    stubs = Stubs(running.channel, scratch)
    stream = follow(stubs, Caller().metadata)
    for number in range(1, 100):
        ingest(stubs, 10 * number, Caller().metadata)
    read(stream, 2 * 99)
    ended = metric(running.server, 'provident_trace_spans_total{status="ended"}')
    check("nothing waits for it", ended >= 3 * 99, True)
    stream.cancel()
    # Said to be 2 s; what a slow machine adds is its own.
    running.stop()


def stopping(binary, scratch, collector):
    print("a stop:")
    never = {"OTEL_BSP_SCHEDULE_DELAY": "600000"}
    running = Running(binary, scratch, "stopping", collector, never)
    caller = Caller()
    ingest(Stubs(running.channel, scratch), 1, caller.metadata)
    check("nothing was sent before", collector.spans, [])
    running.stop()
    check("what there is is sent", len(collector.find("flush", caller.trace)), 1)


def sampling(binary, scratch, collector):
    print("none that begins here:")
    none = {"PROVIDENT_TRACING_SAMPLE_RATIO": "0"}
    running = Running(binary, scratch, "sampling", collector, none)
    stubs = Stubs(running.channel, scratch)
    ingest(stubs, 1)
    caller = Caller()
    ingest(stubs, 11, caller.metadata)
    running.stop()
    found = {span.trace_id.hex() for span in collector.spans}
    check("only its caller's trace", found, {caller.trace})


def main():
    binary, scratch = sys.argv[1], pathlib.Path(sys.argv[2])
    shutil.rmtree(scratch, ignore_errors=True)
    for part in (calls, polling, failing, hanging, stopping, sampling):
        part(binary, scratch, Collector())


if __name__ == "__main__":
    main()
