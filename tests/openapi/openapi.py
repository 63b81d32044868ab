"""The poller's requests against Okta's own OpenAPI description: do they fit what Okta published?

    provident → record → Prism, which checks and refuses → upstream, a System Log of one page

Prism compares each request, and each answer of the upstream, with the description. It overlooks
query parameters that the description does not know, and takes any Authorization for a login; so
both are compared here. At the end the poller's first request is broken in one place after the
other, and each of these must be refused: a check that nothing can fail checks nothing.

What it does not cover: the values of sortOrder and the language of filter, which the description
leaves open; the login of a service app, which it does not have.

usage: openapi.py SERVER_BINARY NODE_MODULES SCRATCH_DIRECTORY
"""

import http.client
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time
from urllib.parse import parse_qsl, urlsplit

# Python knows the folder of the script alone.
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from loopback import Loopback

PATIENCE = 30.0
PATH = "/api/v1/logs"
TOKEN = "made-up"
FOLLOWING = 2

done = 0


def check(what, found, expected, otherwise=""):
    """Says what was done, and stops if it is not as expected."""
    global done
    if found != expected:
        sys.exit(f"openapi: {otherwise}{what}: found {found!r}, expected {expected!r}")
    done += 1
    print(f"  ok  {what}")


def log_event(number):
    """A System Log entry of made-up people."""
    return {
        "uuid": f"{number:08x}-1c0d-11f1-8000-00000000f00d",
        "published": time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime()),
        "eventType": "application.provision.user.deactivate",
        "version": "0",
        "severity": "ERROR",
        "displayMessage": "Deactivate user in Cloudboard",
        "outcome": {"result": "FAILURE", "reason": "429 Too Many Requests"},
        "actor": {"id": "00u1", "type": "SystemPrincipal", "displayName": "Okta System"},
        "target": [{"id": "0ua1", "type": "AppUser", "displayName": "Ada Example"}],
        "transaction": {"type": "JOB", "id": f"tid{number}", "detail": {}},
    }


class Description:
    """What Okta published of the System Log."""

    def __init__(self, file):
        document = json.loads(file.read_text())
        self.version = document["info"]["version"]
        operation = document["paths"][PATH]["get"]
        parameters = operation["parameters"]
        self.parameters = {one["name"] for one in parameters if one["in"] == "query"}
        (login,) = operation["security"][0]
        # Only the words say which scheme the header has: "SSWS {API Token}".
        self.scheme = document["securityDefinitions"][login]["description"].split()[0]
        self.media_types = operation["produces"]

    def overlooked(self, path, headers):
        """What is wrong with a request, of what Prism does not look at."""
        wrong = []
        names = [name for name, _ in parse_qsl(urlsplit(path).query, keep_blank_values=True)]
        for name in dict.fromkeys(names):
            if name not in self.parameters:
                wrong.append(f"there is no query parameter {name!r}")
            if names.count(name) > 1:
                wrong.append(f"the query parameter {name!r} is there more than once")
        if headers.get("authorization", "").split(" ")[0] != self.scheme:
            wrong.append(f"the login is none by {self.scheme}")
        if headers.get("accept") not in self.media_types:
            wrong.append(f"Accept is none of {self.media_types}")
        return wrong


class Upstream:
    """A System Log of one page; after that, the link that was asked for stays the next one."""

    def __init__(self):
        self.seen = []
        # Path and query of each link to the next page, in the order of the requests.
        self.links = []
        self.port = Loopback(self.answer).server_port

    def answer(self, method, path, _headers, _body):
        is_first = "after=" not in path
        following = f"{path}&after=1770000000000_1" if is_first else path
        self.seen.append(f"{method} {path}")
        self.links.append(following)
        headers = [
            ("Content-Type", "application/json"),
            ("Date", time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime())),
            ("Link", f'<https://acme.okta.com{path}>; rel="self"'),
            ("Link", f'<https://acme.okta.com{following}>; rel="next"'),
            ("X-Rate-Limit-Limit", "120"),
            ("X-Rate-Limit-Remaining", "100"),
            ("X-Rate-Limit-Reset", str(int(time.time()) + 60)),
        ]
        events = [log_event(1), log_event(2)] if is_first else []
        return 200, headers, json.dumps(events).encode()


class Record:
    """Passes on to Prism what the poller sends, and notes it with what Prism said."""

    def __init__(self, prism_port):
        self.prism_port = prism_port
        self.exchanges = []
        self.port = Loopback(self.answer).server_port

    def answer(self, method, path, headers, body):
        status, answered, content = ask(self.prism_port, method, path, headers.items(), body)
        violations = [value for name, value in answered if name.lower() == "sl-violations"]
        if status != 200:
            violations.append(content.decode(errors="replace"))
        sent = {name.lower(): value for name, value in headers.items()}
        self.exchanges.append((method, path, sent, status, violations))
        connection = {"connection", "keep-alive", "content-length", "transfer-encoding"}
        passed = [(name, value) for name, value in answered if name.lower() not in connection]
        return status, passed, content


def ask(port, method, path, headers, body=b""):
    """Sends these very headers and no others."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    try:
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        for name, value in headers:
            connection.putheader(name, value)
        connection.endheaders(body or None)
        answer = connection.getresponse()
        return answer.status, answer.getheaders(), answer.read()
    finally:
        connection.close()


def start(command, log, environment=None):
    """Starts a program that ends with this one, even if this one is killed."""
    if shutil.which("setpriv"):
        command = ["setpriv", "--pdeathsig", "KILL", *command]
    with open(log, "wb") as output:
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment,
        )


def wait_for(what, process, log, found):
    """What is found, once it is; not longer than patience, nor than the program lives."""
    deadline = time.monotonic() + PATIENCE
    while (result := found()) is None:
        late = time.monotonic() > deadline
        if late or process.poll() is not None:
            why = "not in time" if late else f"it ended with {process.returncode}"
            end = "\n".join(log.read_text(errors="replace").splitlines()[-8:])
            sys.exit(f"openapi: {what}: {why}; the end of {log}:\n{end}")
        time.sleep(0.02)
    return result


def prism_port(log):
    found = re.search(r"listening on http://127\.0\.0\.1:(\d+)", log.read_text(errors="replace"))
    return found and int(found[1])


def without_violation(description, exchange):
    """Stops if a request of the poller does not fit, and shows what is wrong with it."""
    method, path, headers, status, violations = exchange
    wrong = violations + description.overlooked(path, headers)
    if status != 200 or wrong:
        lines = [f"openapi: a request does not fit, Prism said {status}:", f"  {method} {path}"]
        sys.exit("\n".join(lines + [f"    {reason}" for reason in wrong]))


def broken_requests_are_refused(description, upstream, prism, exchange):
    in_vain = "the check checks nothing: "
    _, path, sent, _, _ = exchange
    nobody = {name: value for name, value in sent.items() if name != "authorization"}
    replaced = lambda name, value: re.sub(rf"\b{name}=[^&]*", f"{name}={value}", path)
    status, _, _ = ask(prism, "GET", path, sent.items())
    check("sent again as it was, the first request is let through", status, 200)
    reached = len(upstream.seen)
    for what, method, path_then, headers_then, refusal, where in [
        ("a limit that is no number", "GET", replaced("limit", "abc"), sent, 422, "limit"),
        ("a since that is no time", "GET", replaced("since", "yesterday"), sent, 422, "since"),
        ("no login", "GET", path, nobody, 401, "security"),
        ("another path", "GET", path.replace("/logs", "/log"), sent, 404, "path"),
        ("another method", "DELETE", path, sent, 405, "method"),
    ]:
        status, _, content = ask(prism, method, path_then, headers_then.items())
        found = (status, where in content.decode(), len(upstream.seen))
        check(f"with {what}, it is refused", found, (refusal, True, reached), in_vain)
    misspelt = description.overlooked(path.replace("since=", "sinse="), sent)
    expected = ["there is no query parameter 'sinse'"]
    check("with a parameter misspelt, too", misspelt, expected, in_vain)
    bearer = description.overlooked(path, {**sent, "authorization": f"Bearer {TOKEN}"})
    check("and with another login", bearer, ["the login is none by SSWS"], in_vain)


def main():
    binary, modules, scratch = sys.argv[1], *map(pathlib.Path, sys.argv[2:4])
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    for stop in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(stop, lambda number, _frame: sys.exit(f"openapi: ended by signal {number}"))
    file = modules / "@okta/openapi/dist/spec.json"
    description, upstream, started = Description(file), Upstream(), []
    try:
        log = scratch / "prism.log"
        command = [
            str(modules / ".bin/prism"), "proxy", str(file), f"http://127.0.0.1:{upstream.port}",
            "--errors", "--host", "127.0.0.1", "--port", "0",
        ]
        started.append(start(command, log))
        prism = wait_for("Prism listens", started[0], log, lambda: prism_port(log))
        record = Record(prism)

        log = scratch / "provident.log"
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith("PROVIDENT_")
        }
        environment["PROVIDENT_OKTA_ORG_URL"] = f"http://127.0.0.1:{record.port}"
        environment["PROVIDENT_OKTA_API_TOKEN"] = TOKEN
        environment["PROVIDENT_POLL_INTERVAL"] = "100ms"
        command = [
            binary, "serve", "--log-format", "json", "--data-dir", str(scratch / "data"),
            "--grpc-addr", "127.0.0.1:0", "--admin-addr", "127.0.0.1:0",
        ]
        started.append(start(command, log, environment))

        def enough():
            # Whatever is wrong is told at once, not after the wait for what then never comes.
            for exchange in record.exchanges:
                without_violation(description, exchange)
            return record.exchanges[: 1 + FOLLOWING] if len(record.exchanges) > FOLLOWING else None

        first, *following = wait_for("the poller polls", started[1], log, enough)
        print(f"Okta's description, version {description.version}:")
        check("the first request fits", "after=" in first[1], False)
        for index, exchange in enumerate(following):
            # As it was given: Prism has written the query anew, with a + for each space.
            link = upstream.links[index]
            check(f"so does one that follows a link, number {index + 1}", exchange[1], link)
        started[1].send_signal(signal.SIGTERM)
        check("SIGTERM ends the server", started[1].wait(timeout=PATIENCE), 0)
        for exchange in record.exchanges:
            without_violation(description, exchange)
        check("all of them reached the upstream", len(upstream.seen), len(record.exchanges))
        broken_requests_are_refused(description, upstream, prism, first)
    finally:
        for process in started:
            process.kill()
            process.wait()
    print(f"openapi: {done} checks, none failed")


main()
