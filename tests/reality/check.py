"""Checks a bucket against what its writers were told: log, checkpoints, every byte. Shares no code with Gigastore.

usage: check.py BUCKET ACKNOWLEDGED MODELS

BUCKET is a folder with the bucket's objects as files. ACKNOWLEDGED has a line of JSON for each thing that a writer was
about to do or was told is done; MODELS is the folder of the files that were saved. Prints what was checked as JSON;
where something is not as it was promised, says so on stderr and exits with 1.
"""

import json
import os
import sys
from collections import Counter, defaultdict

import pyarrow.parquet as pq
from blake3 import blake3

PROJECT = "projects/p/"


def digest(data):
    return blake3(data).hexdigest()


class Damaged(Exception):
    """An object is not there, or not what its name says."""


class Check:
    def __init__(self, bucket, models):
        self.bucket, self.models = bucket, models
        self.violations = []
        self.counts = Counter()
        self.epoch, self.txns, self.runs = 0, set(), {}
        self.took = Counter()
        self.packs, self.references = {}, {}

    def wrong(self, what):
        self.violations.append(what)

    def read(self, key):
        try:
            with open(os.path.join(self.bucket, key), "rb") as file:
                return file.read()
        except FileNotFoundError:
            raise Damaged(f"{key} is missing") from None

    # The log, and what it folds to.

    def log(self):
        folder = os.path.join(self.bucket, PROJECT, "log")
        names = sorted(name for name in os.listdir(folder) if name.endswith(".json"))
        if names != [f"{i + 1:020}.json" for i in range(len(names))]:
            self.wrong(f"the log has gaps: {names}")
        before = digest(b"")
        for i, name in enumerate(names):
            raw = self.read(f"{PROJECT}log/{name}")
            line, seal, rest = raw.split(b"\n")
            before_this, before = before, digest(line + b"\n")
            record = json.loads(line)
            if rest or json.loads(seal) != {"blake3": before}:
                self.wrong(f"record {name} does not match its seal")
            if record["seq"] != i + 1 or record["prev"] != before_this:
                self.wrong(f"record {name} does not follow the one before it")
            for entry in record["entries"]:
                if entry["txn"] not in self.txns:
                    self.txns.add(entry["txn"])
                    self.fold(record["seq"], entry)
        self.counts["records"] = len(names)
        self.counts["epoch"] = self.epoch

    def fold(self, seq, entry):
        kind = entry["kind"]
        if kind == "fence":
            self.epoch += entry["epoch"] == self.epoch + 1
            return
        if kind == "commit":
            run = self.runs.setdefault(entry["name"], {"live": {}, "tags": {}, "pins": set()})
            if entry["number"] not in run["live"]:
                self.usable(seq, entry)
                run["live"][entry["number"]] = (seq, entry)
                self.took[entry["name"], entry["number"]] += 1
            return
        run = self.runs.get(entry["name"])
        number = entry.get("number")
        if run is None or kind == "policy" or number not in run["live"]:
            return
        if kind == "tag":
            run["tags"][entry["tag"]] = number
        elif kind == "pin":
            run["pins"].add(number)
        elif kind == "unpin":
            run["pins"].discard(number)
        elif kind == "drop":
            newest = max(run["live"], key=lambda step: (run["live"][step][0], step))
            if number not in run["pins"] and number not in run["tags"].values() and number != newest:
                del run["live"][number]

    def referenced(self, commit):
        """The keys that a commit refers to, as (name, epoch); None where its manifest was collected after a drop."""
        key = commit["manifest"]["object"]
        if key not in self.references:
            indexes = [commit[kind]["object"] for kind in ("manifest", "packs", "timeline") if kind in commit]
            try:
                self.references[key] = set(indexes) | {row["pack"] for row in self.manifest(commit)}
            except Damaged:
                self.references[key] = None
        return self.references[key]

    def usable(self, seq, commit):
        """Every key was usable where its commit stands: young, or referred to by a commit that was live then."""
        keys = self.referenced(commit)
        old = {key for key in keys or () if int(key.rsplit(".", 1)[1]) < self.epoch - 1}
        if not old:
            return
        live = [self.referenced(other) for run in self.runs.values() for _, other in run["live"].values()]
        if None not in live and not old <= set().union(*live):
            self.wrong(f"record {seq} commits keys that nothing kept: {sorted(old - set().union(*live))}")

    # Objects.

    def sealed(self, key):
        """The document in the first line of an object; its digest is in the second."""
        line, seal, rest = self.read(key).split(b"\n")
        if rest or json.loads(seal) != {"blake3": digest(line + b"\n")}:
            raise Damaged(f"{key} does not match its seal")
        return json.loads(line)

    def index(self, kind, index):
        key = f"{PROJECT}manifests/{index['object']}.parquet"
        raw = self.read(key)
        if len(raw) != index["len"] or digest(raw) != index["object"].split(".")[0]:
            raise Damaged(f"{kind} {key} is not what was committed")
        return os.path.join(self.bucket, key)

    def manifest(self, commit):
        return pq.read_table(self.index("manifest", commit["manifest"])).to_pylist()

    def pack(self, name):
        """Checks all of a pack; returns its bytes and length of header."""
        if name not in self.packs:
            key = f"{PROJECT}packs/{name[:2]}/{name}.safetensors"
            raw = self.read(key)
            start = 8 + int.from_bytes(raw[:8], "little")
            if digest(raw[:start]) != name.split(".")[0]:
                raise Damaged(f"the header of {key} has another digest than its name")
            header = json.loads(raw[8:start])
            slices = header.pop("__metadata__")
            end = 0
            for entry, place in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
                first, last = place["data_offsets"]
                data = raw[start + first : start + last]
                if first != end or len(data) != last - first:
                    raise Damaged(f"{key} has not all of {entry}")
                end = last
                if entry.startswith("__pad__."):
                    if any(data):
                        raise Damaged(f"{key}: {entry} is not zero")
                elif digest(data) != json.loads(slices[entry])["blake3"]:
                    raise Damaged(f"{key}: {entry} has another digest")
                self.counts["slices"] += 1
            if start + end != len(raw):
                raise Damaged(f"{key} has {len(raw)} bytes, expected {start + end}")
            self.packs[name] = (raw, start)
            self.counts["pack_bytes"] += len(raw)
        return self.packs[name]

    def everything(self):
        """Checks every object by its name, whether or not anything refers to it."""
        try:
            if self.sealed("gigastore.json")["format"] != "gigastore":
                self.wrong("gigastore.json is another program's")
        except (Damaged, ValueError) as problem:
            self.wrong(str(problem))
        for folder, _, names in os.walk(os.path.join(self.bucket, PROJECT)):
            for name in names:
                key = os.path.relpath(os.path.join(folder, name), self.bucket)
                parts = key.split("/")
                if "#" in name:
                    # Being written when its writer was killed: no object has such a name.
                    self.counts["unfinished"] += 1
                    continue
                self.counts["objects"] += 1
                try:
                    if parts[2] == "packs":
                        self.pack(name.removesuffix(".safetensors"))
                    elif parts[2] in ("manifests", "blobs") and digest(self.read(key)) != name.split(".")[0]:
                        self.wrong(f"{key} has another digest than its name")
                    elif parts[-2] == "parts" and digest(self.read(key)) != name.split(".")[1]:
                        self.wrong(f"{key} has another digest than its name")
                    elif name in ("begin.json", "ended.json"):
                        self.sealed(key)
                except (Damaged, ValueError, KeyError) as problem:
                    self.wrong(f"{key}: {problem}")

    def tensors(self, commit):
        """The tensors of a checkpoint, whole, from its manifest and packs alone."""
        slices = defaultdict(list)
        for row in self.manifest(commit):
            raw, start = self.pack(row["pack"])
            if start != row["pack_header_len"] or row["codec"] != "raw":
                raise Damaged(f"a row of {commit['name']}@{commit['number']} does not fit its pack: {row}")
            data = raw[row["offset"] : row["offset"] + row["stored_len"]]
            if len(data) != row["bytes"] or digest(data) != row["blake3"]:
                raise Damaged(f"{row['name']} of {commit['name']}@{commit['number']} has another digest")
            if row["sizes"][1:] != row["global_shape"][1:]:
                raise Damaged(f"{row['name']} is not sharded along its first dimension")
            slices[row["name"]].append((row["global_offsets"][:1], data))
        for kind in ("packs", "timeline"):
            if kind in commit:
                self.index(kind, commit[kind])
        return {name: b"".join(data for _, data in sorted(parts)) for name, parts in slices.items()}

    def checkpoints(self):
        """Every live checkpoint is there, whole, whether or not anybody was told of it."""
        whole = {}
        for name, run in self.runs.items():
            for number, (_, commit) in run["live"].items():
                try:
                    whole[name, number] = self.tensors(commit)
                except Damaged as problem:
                    self.wrong(f"{name}@{number} is live: {problem}")
        self.counts["live"] = len(whole)
        return whole

    # What was acknowledged.

    def model(self, path):
        with open(os.path.join(self.models, path), "rb") as file:
            raw = file.read()
        start = 8 + int.from_bytes(raw[:8], "little")
        header = json.loads(raw[8:start])
        places = {name: entry["data_offsets"] for name, entry in header.items() if name != "__metadata__"}
        return {name: raw[start + first : start + last] for name, (first, last) in places.items()}

    def acknowledged(self, lines, whole):
        dropping, tags = set(), defaultdict(list)
        for line in lines:
            if line["what"] == "dropping":
                dropping.add((line["run"], line["step"]))
        for line in lines:
            run, step = line["run"], line["step"]
            state = self.runs.get(run, {"live": {}, "tags": {}})
            self.counts[f"acknowledged {line['what']}"] += 1
            if line["what"] == "saved":
                if self.took[run, step] != 1:
                    self.wrong(f"{run}@{step} was acknowledged and took effect {self.took[run, step]} times")
                if (run, step) in whole:
                    if whole[run, step] != self.model(line["file"]):
                        self.wrong(f"{run}@{step} was acknowledged and is another model than {line['file']}")
                elif (run, step) not in dropping:
                    self.wrong(f"{run}@{step} was acknowledged and is not live")
            elif line["what"] == "dropped" and step in state["live"]:
                self.wrong(f"the drop of {run}@{step} was acknowledged and it is live")
            elif line["what"] == "tagged":
                # From here on only later tags may have moved it.
                tags[run, line["tag"]] = [step]
            elif line["what"] == "tagging":
                tags[run, line["tag"]].append(step)
        for (run, tag), steps in tags.items():
            found = self.runs.get(run, {"tags": {}})["tags"].get(tag)
            told = any(line["what"] == "tagged" and (line["run"], line["tag"]) == (run, tag) for line in lines)
            if found not in steps and (told or found is not None):
                self.wrong(f"tag {tag} of {run} is at {found}, acknowledged were {steps}")
            if found is not None and found not in self.runs[run]["live"]:
                self.wrong(f"tag {tag} of {run} is at {found}, which is not live")
        for (run, step), times in self.took.items():
            if times > 1:
                self.wrong(f"{run}@{step} was committed {times} times")


def main(bucket, acknowledged, models):
    check = Check(bucket, models)
    with open(acknowledged, encoding="utf-8") as file:
        lines = [json.loads(line) for line in file]
    check.log()
    check.everything()
    check.acknowledged(lines, check.checkpoints())
    print(json.dumps(check.counts))
    for violation in check.violations:
        print(f"VIOLATION: {violation}", file=sys.stderr)
    return 1 if check.violations else 0


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__.strip())
    sys.exit(main(*sys.argv[1:]))
