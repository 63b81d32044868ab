"""The chart, the manifests, the alerts and the dashboard, checked with the real tools.

Renders the chart with each Helm that is given, with many values and for many versions of Kubernetes, and
has every object validated against that version's schema; checks that wrong values are refused with a
sentence; that the manifests are what the chart renders; and that every query of the dashboard finds
something in the metrics of a server that runs.

usage: deploy.py SERVER_BINARY SCRATCH_DIRECTORY KUBECTL HELM…
"""

import atexit
import json
import os
import pathlib
import re
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request

import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
CHART = ROOT / "deploy" / "chart"
PATIENCE = 60

# What every rendering has to have.
NEEDED = {"image.repository": "registry.example/provident", "insecure.acceptPlaintext": "true"}
VERSIONS = ["1.25", "1.28", "1.30", "1.32", "1.34", "1.35", "1.36", "1.37"]
EVERYTHING = {
    "okta.orgUrl": "https://acme.okta.com",
    "okta.clientId": "0oa1example",
    "okta.existingSecret": "okta",
    "hook.enabled": "true",
    "hook.existingSecret": "hook",
    "hook.previousSecretKey": "previous",
    "hook.ingress.enabled": "true",
    "hook.ingress.host": "events.acme.example",
    "hook.ingress.tlsSecret": "events-tls",
    "hook.ingress.className": "nginx",
    "podDisruptionBudget.enabled": "true",
    "metrics.podMonitor.enabled": "true",
    "networkPolicy.adminFrom[0].namespaceSelector.matchLabels.kubernetes\\.io/metadata\\.name": "monitoring",
    "networkPolicy.hookFrom[0].namespaceSelector.matchLabels.kubernetes\\.io/metadata\\.name": "ingress-nginx",
    "networkPolicy.grpcFrom[0].podSelector.matchLabels.team": "siem",
    "networkPolicy.oktaTo[0].ipBlock.cidr": "192.0.2.0/24",
    "networkPolicy.dnsPorts": "{53,5353}",
    "listenAddress": "[::]",
    "metrics.prometheusRule.enabled": "true",
    "metrics.dashboard.enabled": "true",
    "secretMounts[0].secret": "acme",
    "secretMounts[0].mountPath": "/secrets/acme",
    "tracing.endpoint": "http://collector.observability:4318",
    "tracing.sampleRatio": "0.25",
    "tests.org": "acme.okta.com",
    "extraEnv[0].name": "RUST_BACKTRACE",
    "extraEnv[0].value": "on",
    "persistence.storageClass": "fast",
}
TWO_ORGS = """
[[orgs]]
name = "acme.okta.com"
url = "https://acme.okta.com"
api_token_file = "/secrets/acme/token"
hook_secret_file = "/secrets/acme/hook"
[[orgs]]
name = "other.okta.com"
hook_secret_file = "/secrets/acme/other-hook"
"""
MATRIX = {
    "as it comes": {},
    "everything": EVERYTHING,
    "exec probes": {"probes.kind": "exec"},
    "http probes": {"probes.kind": "http"},
    "a token": {"okta.orgUrl": "https://acme.okta.com", "okta.existingSecret": "okta"},
    "a claim that there is": {
        "persistence.existingClaim": "data", "persistence.size": "1Gi", "networkPolicy.enabled": "false",
        "extraEnv[0].name": "POD_NAME", "extraEnv[0].value": "mine",
    },
    "a hook in config": {
        "config": '[hook]\nsecret_file = "/secrets/h/hook"\n[shutdown]\ndrain_timeout = "4s"',
        "hook.enabled": "true", "secretMounts[0].secret": "h", "secretMounts[0].mountPath": "/secrets/h",
        "terminationGracePeriodSeconds": "10",
    },
    "another account": {"serviceAccount.create": "false", "serviceAccount.name": "mine"},
    "a service monitor": {
        "metrics.serviceMonitor.enabled": "true", "networkPolicy.enabled": "false",
    },
    "two orgs": {"config": TWO_ORGS, "hook.enabled": "true", "secretMounts[0].secret": "acme",
                 "secretMounts[0].mountPath": "/secrets/acme"},
    "only failures": {"config": '[ingest]\nkeep = "failures"'},
    "on delete": {"updateStrategy": "OnDelete", "image.digest": "sha256:" + "0" * 64},
}
# Values that can't work, for which version, and a part of the sentence that says so.
REFUSED = [
    ({"image.repository": ""}, "1.30", "build the image from deploy/Dockerfile"),
    ({"insecure.acceptPlaintext": "false"}, "1.30", "insecure.acceptPlaintext=true"),
    ({"replicaCount": "2"}, "1.30", "replicaCount must be 1"),
    ({}, "1.23", "set probes.kind to exec or http"),
    ({"okta.orgUrl": "https://acme.okta.com"}, "1.30", "okta.existingSecret"),
    ({"okta.existingSecret": "okta"}, "1.30", "okta.orgUrl"),
    ({"okta.orgUrl": "http://acme.okta.com", "okta.existingSecret": "x"}, "1.30", "orgUrl"),
    ({"okta.clientId": "0oa1"}, "1.30", "okta.orgUrl"),
    (
        {"okta.orgUrl": "https://a.okta.com", "okta.existingSecret": "x", "config": TWO_ORGS},
        "1.30",
        "in each of [[orgs]]",
    ),
    ({"hook.enabled": "true"}, "1.30", "hook.existingSecret"),
    (
        {"hook.enabled": "true", "hook.existingSecret": "x", "config": TWO_ORGS},
        "1.30",
        "hook_secret_file in each of [[orgs]]",
    ),
    ({"config": "[log"}, "1.30", "read as TOML"),
    ({"config": '[journal]\nkind = "memory"'}, "1.30", "forgets everything"),
    ({"hook.ingress.enabled": "true"}, "1.30", "nothing behind the ingress"),
    (
        {"hook.enabled": "true", "hook.existingSecret": "x", "hook.ingress.enabled": "true"},
        "1.30",
        "tlsSecret",
    ),
    (
        {
            "hook.enabled": "true", "hook.existingSecret": "x", "hook.ingress.enabled": "true",
            "hook.ingress.host": "h.example", "hook.ingress.tlsSecret": "t",
        },
        "1.30",
        "networkPolicy.hookFrom",
    ),
    ({"metrics.podMonitor.enabled": "true"}, "1.30", "networkPolicy.adminFrom"),
    (
        {"metrics.podMonitor.enabled": "true", "metrics.serviceMonitor.enabled": "true"},
        "1.30",
        "count twice",
    ),
    ({"persistence.size": "1Gi"}, "1.30", "less than 2Gi"),
    ({"persistence.size": "1999M"}, "1.30", "less than 2Gi"),
    ({"podLabels.app\\.kubernetes\\.io/name": "x"}, "1.30", "podLabels has"),
    ({"extraEnv[0].name": "PROVIDENT_DATA_DIR", "extraEnv[0].value": "/x"}, "1.30", "extraEnv has"),
    ({"extraEnv[0].name": "PROVIDENT_JOURNAL_KIND", "extraEnv[0].value": "memory"}, "1.30", "extraEnv has"),
    ({"secretMounts[0].secret": "s", "secretMounts[0].mountPath": "/data"}, "1.30", "mounted already"),
    ({"config": '[okta]\norg_url = "https://a.okta.com"'}, "1.30", "okta.orgUrl"),
    ({"config": '[tracing]\nendpoint = "http://c:4318"'}, "1.30", "tracing.endpoint"),
    ({"tracing.endpoint": "http://c:4318/v1/traces"}, "1.30", "without /v1/traces"),
    ({"tracing.endpoint": "http://user:key@c:4318"}, "1.30", "endpoint"),
    ({"listenAddress": "127.0.0.1"}, "1.30", "listenAddress"),
    ({"fullnameOverride": "9lives"}, "1.30", "fullnameOverride"),
    ({"insecure": "null"}, "1.30", "insecure.acceptPlaintext=true"),
    ({"terminationGracePeriodSeconds": "5"}, "1.30", "terminationGracePeriodSeconds"),
    ({"probes.kind": "tcp"}, "1.30", "kind"),
    ({"persistance.size": "1Gi"}, "1.30", "persistance"),
    ({"persistence.size": "lots"}, "1.30", "size"),
    ({"tracing.endpoint": "collector:4318"}, "1.30", "endpoint"),
    ({"tracing.sampleRatio": "25"}, "1.30", "sampleRatio"),
    ({"updateStrategy": "Recreate"}, "1.30", "updateStrategy"),
]


def run(*command, fails=False, **options):
    done = subprocess.run(command, capture_output=True, text=True, **options)
    if (done.returncode != 0) != fails:
        sys.exit(f"deploy: {' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
    return done.stdout if not fails else done.stdout + done.stderr


def render(helm, values, version, fails=False):
    settings = [f"--set={name}={value}" for name, value in (NEEDED | values).items()]
    return run(helm, "template", "provident", CHART, "--kube-version", version, *settings, fails=fails)


def validate(text, version, scratch, what):
    """Against the schema of Kubernetes; what is Prometheus' own has none there."""
    objects = [part for part in text.split("\n---") if re.search(r"^kind:", part, re.M)]
    ours = [part for part in objects if "monitoring.coreos.com" not in part]
    file = scratch / "rendered.yaml"
    file.write_text("\n---\n".join(ours))
    validator = pathlib.Path(sys.executable).parent / "kubernetes-validate"
    done = subprocess.run(
        [validator, "--strict", "-k", version, file], capture_output=True, text=True
    )
    if done.returncode != 0:
        sys.exit(f"deploy: {what} is not valid for Kubernetes {version}\n{done.stdout}{done.stderr}")
    return len(ours)


def check_chart(helms, scratch):
    objects = 0
    for helm in helms:
        version = run(helm, "version", "--short").strip()
        run(helm, "lint", "--strict", CHART, *(f"--set={n}={v}" for n, v in NEEDED.items()))
        for name, values in MATRIX.items():
            for kubernetes in VERSIONS:
                text = render(helm, values, kubernetes)
                objects += validate(text, kubernetes, scratch, f"{name}, by {version},")
        for values, kubernetes, sentence in REFUSED:
            said = render(helm, values, kubernetes, fails=True)
            if sentence not in said:
                sys.exit(f"deploy: {values} is refused without {sentence!r} by {version}: {said}")
        # The oldest that the chart is for.
        render(helm, {"probes.kind": "exec"}, "1.20")
        print(f"deploy: {version}: {len(MATRIX)} sets of values for {len(VERSIONS)} versions of")
        print(f"deploy: Kubernetes, {len(REFUSED)} refusals, each with its sentence")
    print(f"deploy: {objects} objects are valid")


def check_rendered(helm, scratch):
    """What counts in what the chart makes of everything."""
    objects = [part for part in yaml.safe_load_all(render(helm, EVERYTHING, "1.30")) if part]
    find = lambda kind: next(part for part in objects if part["kind"] == kind)

    policy = find("NetworkPolicy")["spec"]
    callers = policy["ingress"][0]["from"]
    if len(callers) != 2 or "provident-client" not in str(callers[0]):
        sys.exit(f"deploy: whom grpcFrom names comes in place of pods with the label: {callers}")
    ports = [port["port"] for rule in policy["egress"] for port in rule["ports"]]
    if ports != [53, 53, 5353, 5353, 443, 4318]:
        sys.exit(f"deploy: the policy lets out to {ports}")

    # Another release, in good health, is no reason not to tell of ours.
    rules = scratch / "rules.yaml"
    spec = find("PrometheusRule")["spec"]
    rules.write_text(yaml.safe_dump(spec))
    for rule in (rule for group in spec["groups"] for rule in group["rules"]):
        for name, selector in re.findall(r"(provident[_:]\w+|process_\w+)(\{[^}]*\})?", rule["expr"]):
            if 'namespace="default",pod="provident-0"' not in selector:
                sys.exit(f"deploy: {name}{selector} is not of the release alone: {rule['expr']}")
    case = {
        "rule_files": [str(rules)],
        "tests": [
            {
                "interval": "1m",
                "input_series": [
                    {
                        "series": 'provident_build_info{namespace="test",pod="provident-0"}',
                        "values": "1x30",
                    }
                ],
                "promql_expr_test": [
                    {
                        "expr": "count by (namespace, pod) (ALERTS{alertname='ProvidentDown'})",
                        "eval_time": "20m",
                        "exp_samples": [
                            {"labels": '{namespace="default",pod="provident-0"}', "value": 1}
                        ],
                    }
                ],
            }
        ],
    }
    (scratch / "rules.test.yaml").write_text(yaml.safe_dump(case))
    run("promtool", "test", "rules", scratch / "rules.test.yaml")
    print("deploy: policy and alerts are those of the release")


def check_manifests(kubectl, helm, scratch):
    run(ROOT / "deploy" / "manifests" / "render", helm, scratch / "base")
    run("diff", "-ru", ROOT / "deploy" / "manifests" / "base", scratch / "base")
    for overlay in sorted((ROOT / "deploy" / "manifests" / "overlays").iterdir()):
        text = run(kubectl, "kustomize", overlay)
        count = validate(text, "1.30", scratch, overlay.name)
        print(f"deploy: overlay {overlay.name}: {count} objects, valid")


def check_new_epoch(scratch):
    """The pod for a restore, which namespaces that enforce the restricted standard have to take."""
    text = (ROOT / "deploy" / "new-epoch.yaml").read_text()
    validate(text, "1.30", scratch, "deploy/new-epoch.yaml")
    pod = yaml.safe_load(text)["spec"]
    chart = yaml.safe_load((CHART / "values.yaml").read_text())
    omitted = {"fsGroupChangePolicy"}
    expected = {k: v for k, v in chart["podSecurityContext"].items() if k not in omitted}
    if pod["securityContext"] != expected:
        sys.exit("deploy: deploy/new-epoch.yaml runs as another user than the chart's pod")
    if pod["containers"][0]["securityContext"] != chart["containerSecurityContext"]:
        sys.exit("deploy: deploy/new-epoch.yaml may more than the chart's container")


def check_alerts():
    run("promtool", "check", "rules", CHART / "files" / "alerts.yaml")
    run("promtool", "test", "rules", ROOT / "tests" / "deploy" / "alerts.test.yaml")
    alerts = (CHART / "files" / "alerts.yaml").read_text()
    runbook = (ROOT / "docs" / "operations.md").read_text()
    tested = (ROOT / "tests" / "deploy" / "alerts.test.yaml").read_text()
    names = re.findall(r"- alert: (\w+)", alerts)
    for name in names:
        if f"### {name}\n" not in runbook:
            sys.exit(f"deploy: docs/operations.md has no line for {name}")
        if f"alertname: {name}\n        exp_alerts" not in tested:
            sys.exit(f"deploy: no case lets {name} fire")
    print(f"deploy: {len(names)} alerts, each with its cases and its line")


class Running:
    """A process that ends with this one."""

    def __init__(self, *command, **options):
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, **options)
        atexit.register(self.process.kill)


def fetch(url, headers=None, data=None):
    request = urllib.request.Request(url, headers=headers or {}, data=data)
    with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
        return answer.read().decode()


def check_dashboard(binary, scratch):
    """Each query against a server that does a little of everything, scraped by a real Prometheus."""
    ports = {"grpc": 51951, "http": 51952, "admin": 51953, "prometheus": 51954}
    address = {name: f"127.0.0.1:{port}" for name, port in ports.items()}
    (scratch / "token").write_text("not-a-real-token\n")
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PROVIDENT_")}
    log = (scratch / "server.log").open("w")
    Running(
        binary, "serve", "--data-dir", scratch / "data", "--grpc-addr", address["grpc"],
        "--http-addr", address["http"], "--admin-addr", address["admin"],
        stderr=log,
        env=environment | {
            "PROVIDENT_HOOK_SECRET": "a-secret-of-the-test",
            # Nobody is there, which is a source that fails.
            "PROVIDENT_OKTA_ORG_URL": "http://127.0.0.1:1",
            "PROVIDENT_OKTA_API_TOKEN_FILE": str(scratch / "token"),
        },
    )
    (scratch / "prometheus.yml").write_text(
        "global: { scrape_interval: 1s }\nscrape_configs:\n"
        f"  - {{ job_name: provident, static_configs: [{{ targets: ['{address['admin']}'] }}] }}\n"
    )
    Running(
        "prometheus", f"--config.file={scratch / 'prometheus.yml'}",
        f"--storage.tsdb.path={scratch / 'tsdb'}", f"--web.listen-address={address['prometheus']}",
        stderr=(scratch / "prometheus.log").open("w"),
    )
    environment |= {"PROVIDENT_SERVER": f"http://{address['grpc']}"}

    def provident(*command, fails=False):
        return run(binary, *command, fails=fails, env=environment)

    deadline = time.monotonic() + PATIENCE
    while subprocess.run([binary, "probe"], capture_output=True, env=environment).returncode != 0:
        if time.monotonic() > deadline:
            sys.exit(f"deploy: the server does not come to serve: {(scratch / 'server.log').read_text()}")
        time.sleep(0.1)
    provident("subscriptions", "create", "team", "--from", "earliest")
    queries = [
        (panel["title"], target["expr"])
        for panel in json.loads((CHART / "files" / "dashboard.json").read_text())["panels"]
        for target in panel["targets"]
    ]
    missing = queries
    number = 0
    while missing:
        number += 1
        event = {
            "uuid": f"d{number}", "published": "2026-11-20T08:15:00.000Z",
            "eventType": "application.provision.user.deactivate",
            "outcome": {"result": "FAILURE", "reason": "401 Unauthorized"},
            "target": [{"id": "0oa1", "type": "AppInstance", "displayName": "Slack", "alternateId": "Slack"}],
        }
        delivery = {
            "eventType": "com.okta.event_hook", "source": "https://127.0.0.1:1/api/v1/eventHooks/who1",
            "eventId": f"e{number}", "data": {"events": [event]},
        }
        try:
            fetch(
                f"http://{address['http']}/hooks/okta", {"Authorization": "a-secret-of-the-test"},
                json.dumps(delivery).encode(),
            )
        except urllib.error.HTTPError:
            pass  # It is counted too.
        (scratch / "event.json").write_text(json.dumps(event | {"uuid": f"f{number}"}))
        provident("ingest", scratch / "event.json")
        provident("tail", "--stop-at-head")
        provident("subscriptions", "get", "nobody", fails=True)
        missing = []
        for title, query in queries:
            # Outside of a cluster nothing has these labels.
            asked = query.replace("$namespace", "").replace("$pod", "")
            asked = asked.replace("$__rate_interval", "15s")
            url = f"http://{address['prometheus']}/api/v1/query?query={urllib.parse.quote(asked)}"
            try:
                answer = json.loads(fetch(url))
            except urllib.error.HTTPError as error:
                sys.exit(f"deploy: {title}: {asked}: {error.read().decode()}")
            except urllib.error.URLError:
                answer = {"data": {"result": []}}
            if not answer["data"]["result"]:
                missing.append((title, asked))
        if time.monotonic() > deadline:
            sys.exit(f"deploy: these queries of the dashboard find nothing: {missing}")
        time.sleep(1)
    print(f"deploy: {len(queries)} queries of the dashboard find what they ask for")


def main():
    binary, scratch, kubectl, *helms = sys.argv[1:]
    scratch = pathlib.Path(scratch)
    subprocess.run(["rm", "-rf", scratch], check=True)
    scratch.mkdir(parents=True)
    check_chart(helms, scratch)
    check_rendered(helms[0], scratch)
    check_manifests(kubectl, helms[0], scratch)
    check_new_epoch(scratch)
    check_alerts()
    check_dashboard(binary, scratch)


main()
