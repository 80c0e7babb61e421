#!/usr/bin/env python3
"""Rebuilds what btw-backup sent here, without btw-backup: with Python 3.6 or newer and the programs zstd and age alone.

  python3 RESTORE.py --identity KEY               lists the files that there are
  python3 RESTORE.py --identity KEY ROOT [DST]    makes the new folder ROOT, with all of them, or those of DST

Copy all that lies here to a disk first: this reads the folder in which it lies, or --bucket FOLDER. Nothing is believed
that the records do not prove; --fingerprint HEX, which keys test printed, says which store key is the right one.
What is in ROOT then, and what to do with it, tells README.txt.
"""

import argparse
import hashlib
import hmac
import json
import os
import re
import subprocess
import sys
import tempfile
from typing import IO, Any, Dict, Iterator, List, Optional, Tuple

try:
    import sqlite3
except ImportError:  # then memory has to do
    sqlite3 = None  # type: ignore[assignment]

FAILURES = (OSError, ValueError, KeyError, TypeError) + ((sqlite3.Error,) if sqlite3 else ())
VERSION = 1
AGE = b"age-encryption.org/v1\n"
LARGEST = 1 << 30
BLOCK = 1 << 16
CHUNKS = ".store/chunks/"
_RECORD = re.compile(r"([0-9a-f]{8})-([0-9a-f]{64})(\.state)?")
_NAME = re.compile(r"[0-9a-f]{64}")


class Stopped(Exception):
    """It makes no sense to go on; `status` is that of the program."""

    def __init__(self, message: str, status: int = 1) -> None:
        Exception.__init__(self, message)
        self.status = status


class Damaged(Exception):
    """Something is not what was stored."""


class Foreign(Damaged):
    """Something is encrypted to other keys than those that are given."""


def say(message: str) -> None:
    """One line on standard error."""
    sys.stderr.write("RESTORE.py: %s\n" % message.encode("ascii", "backslashreplace").decode())


def through(command: List[str], content: bytes, strict: bool = True) -> bytes:
    """What a program makes of `content`. Raises Damaged."""
    try:
        child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    except OSError as error:
        raise Stopped("the program %s is not installed" % command[0]) from error
    out, complaint = child.communicate(content)
    if child.returncode and strict:
        raise Damaged("%s: %s" % (command[0], complaint.decode("utf-8", "replace").strip()[:300]))
    return out


def expanded(content: bytes) -> bytes:
    """The first zstd frame in `content`. zstd complains of the padding behind it; what comes out is proved later."""
    return through(["zstd", "-dcq", "--memory=128MB"], content, strict=False)[:LARGEST]


class Table:
    """Values by their names, sorted. On a disk if that can be: there may be a million."""

    def __init__(self) -> None:
        self._memory = {}  # type: Dict[bytes, str]
        self._rows = sqlite3.connect("") if sqlite3 else None  # a file that nobody else sees, in the folder for such
        if self._rows:
            self._rows.execute("CREATE TABLE row (name BLOB PRIMARY KEY, value TEXT) WITHOUT ROWID")

    def __setitem__(self, name: str, value: Any) -> None:
        key, text = name.encode("utf-8", "surrogatepass"), json.dumps(value)
        if self._rows:
            self._rows.execute("INSERT OR REPLACE INTO row VALUES (?, ?)", (key, text))
        else:
            self._memory[key] = text

    def get(self, name: str) -> Any:
        """The value of `name`, or None."""
        key = name.encode("utf-8", "surrogatepass")
        if not self._rows:
            return json.loads(self._memory.get(key, "null"))
        row = self._rows.execute("SELECT value FROM row WHERE name = ?", (key,)).fetchone()
        return json.loads(row[0]) if row else None

    def remove(self, name: str) -> None:
        """Forget `name`, if it is there."""
        key = name.encode("utf-8", "surrogatepass")
        if self._rows:
            self._rows.execute("DELETE FROM row WHERE name = ?", (key,))
        else:
            self._memory.pop(key, None)

    def update(self, items: Iterator[Tuple[str, Any]]) -> None:
        """Take in other names and values."""
        for name, value in items:
            self[name] = value

    def items(self) -> Iterator[Tuple[str, Any]]:
        """The names and values."""
        rows = self._rows.execute("SELECT * FROM row ORDER BY name") if self._rows else sorted(self._memory.items())
        for key, text in rows:
            yield key.decode("utf-8", "surrogatepass"), json.loads(text)

    def __iter__(self) -> Iterator[str]:
        return (name for name, _ in self.items())


State = Tuple[Table, Table]


class Text:
    """JSON that is read bit by bit, of which only what is being read is kept."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._kept, self._at = "", 0

    def members(self) -> Iterator[Tuple[str, Any]]:
        """The names and values of the object that begins here. Raises ValueError."""
        self.skip("{")
        while not self.comes("}"):
            name = self._value()
            self.skip(": ")
            yield name, self._value()
            if not self.comes("}"):
                self.skip(", ")
        self.skip("}")

    def skip(self, text: str) -> None:
        """Go on behind `text`, which has to be here. Raises ValueError."""
        if not self.comes(text):
            raise ValueError("%r is missing in it" % text)
        self._at += len(text)

    def comes(self, text: str) -> bool:
        """Whether `text` is here."""
        while len(self._kept) - self._at < len(text) and self._more():
            pass
        return self._kept.startswith(text, self._at)

    def _value(self) -> Any:
        while True:
            try:
                value, self._at = json.JSONDecoder().raw_decode(self._kept, self._at)
                return value
            except ValueError:
                if not self._more():
                    raise

    def _more(self) -> bool:
        rest = self._kept[self._at :]
        block = self._stream.read(max(BLOCK, len(rest)))
        self._kept, self._at = rest + block.decode("ascii"), 0
        return bool(block)


class Bucket:
    """A copy of what lies at the target."""

    def __init__(self, folder: str, identities: List[str]) -> None:
        self.folder = folder
        self._options = [word for path in identities for word in ("-i", path)]
        self.problems = 0

    def problem(self, message: str) -> None:
        """Something is not as it should be."""
        self.problems += 1
        say(message)

    def names(self, *inner: str) -> List[str]:
        """What lies in a folder."""
        try:
            return sorted(os.listdir(os.path.join(self.folder, *inner)))
        except OSError:
            return []

    def content(self, sha256: str, *inner: str) -> bytes:
        """An object, proved and decrypted. Raises Damaged."""
        try:
            with open(os.path.join(self.folder, *inner), "rb") as file:
                found = file.read(LARGEST)
        except OSError as error:
            raise Damaged("%s: %s" % ("/".join(inner), error.strerror)) from error
        if hashlib.sha256(found).hexdigest() != sha256:
            raise Damaged("%s is not what was stored" % "/".join(inner))
        if not found.startswith(AGE):
            return found
        if not self._options:
            raise Stopped("it is encrypted: --identity KEY is missing")
        try:
            return through(["age", "-d", *self._options], found)
        except Damaged as error:
            if "no identity matched" in str(error):
                raise Foreign("%s: %s" % ("/".join(inner), error)) from error
            raise

    def piece(self, ref: Any) -> bytes:
        """What an object holds that a record names. Raises Damaged."""
        batch, name, length, _ = ref
        if not _NAME.fullmatch(name):
            raise Damaged("an object cannot be called %r" % name)
        found = self.content(name, "objects", "%08x" % batch, name)
        if len(found) < length:
            raise Damaged("the object %s is too short" % name)
        return found[:length]

    def file(self, value: Any) -> Iterator[bytes]:
        """The content of a file; Damaged at its end if that is not what was stored."""
        size, sha256, _, refs = value
        digest, count = hashlib.sha256(), 0
        for ref in refs:
            piece = self.piece(ref)
            digest.update(piece)
            count += len(piece)
            yield piece
        if (count, digest.hexdigest()) != (size, sha256):
            raise Damaged("it is not what was stored")


def store_keys(bucket: Bucket, fingerprints: List[str]) -> List[bytes]:
    """The store keys that can be read, and are known if any is."""
    keys, spoilt = [], []
    for name in bucket.names("keys"):
        try:
            key = bytes.fromhex(bucket.content(name, "keys", name)[:64].decode("ascii"))
        except Foreign:
            continue  # of a time when there were other keys
        except (Damaged, ValueError) as error:
            spoilt.append("keys/%s: %s" % (name, error))
            continue
        mark = hashlib.sha256(b"btw-backup store key\n" + key).hexdigest()[:16]
        if fingerprints and mark not in fingerprints:
            bucket.problem("there is another store key, %s, which is not believed" % mark)
            continue
        if not fingerprints:
            say("the store key is %s; is that the one that keys test printed?" % mark)
        keys.append(key)
    for message in spoilt:  # of no use to anybody if another one is well
        say(message)
    if not keys:
        raise Stopped("there is no store key that could be read in %s" % bucket.folder, 5)
    return keys


def pins(paths: List[str]) -> List[str]:
    """The fingerprints that are noted in the files of keys."""
    found = []
    for path in paths:
        with open(path, encoding="utf-8", errors="replace") as file:
            found += re.findall(r"^# store key: ([0-9a-f]{16})\s*$", file.read(1 << 20), re.MULTILINE)
    return found


def record_in(bucket: Bucket, keys: List[bytes], chain: str, name: str) -> Dict[str, Any]:
    """A record, proved. Raises Damaged."""
    number, sha256, _ = _RECORD.fullmatch(name).groups()  # type: ignore[union-attr]
    body, _, mac = expanded(bucket.content(sha256, "index", chain, name)).rstrip(b"\n").rpartition(b"\n")
    good = [hmac.new(key, b"btw-backup index 1\n" + body, hashlib.sha256).hexdigest().encode() for key in keys]
    if not any(hmac.compare_digest(one, mac) for one in good):
        raise Damaged("its HMAC is not that of the store key")
    found = json.loads(body.decode())
    if found["format"] != 1:
        raise Stopped("format %s: use a newer RESTORE.py" % found["format"])
    if (found["chain"], found["sequence"]) != (chain, int(number, 16)):
        raise Damaged("it is another record")
    return dict(found)


def state_of(bucket: Bucket, keys: List[bytes]) -> State:
    """All that the records of all chains tell."""
    heads = []
    for chain in bucket.names("index"):
        names = [name for name in bucket.names("index", chain) if _RECORD.fullmatch(name)]
        if names and all(is_foreign(bucket, chain, name) for name in names):
            say("index/%s: %d records of an earlier time open with none of the keys given" % (chain, len(names)))
            continue
        names.sort(key=lambda name: (name[:8], not name.endswith(".state")))
        bases = [at for at, name in enumerate(names) if name.endswith(".state") or name.startswith("00000001-")]
        bases = [
            at for at in bases if not at or names[at - 1][:8] < names[at][:8]
        ]  # neither of two of one number is lost
        for base in reversed(bases or [0]):
            found = chain_from(bucket, keys, chain, names[base:])
            if found or base == (bases or [0])[0]:
                heads += [found] if found else []
                break
    if not heads:
        raise Stopped("none of the records could be read and believed", 5)
    heads.sort(key=lambda head: head[0])
    files, chunks = heads[0][1]
    for _, state in heads[1:]:
        files.update(state[0].items())
        chunks.update(state[1].items())
    return files, chunks


def is_foreign(bucket: Bucket, chain: str, name: str) -> bool:
    """Whether a record is encrypted to other keys."""
    try:
        bucket.content(name[9:73], "index", chain, name)
    except Foreign:
        return True
    except Damaged:
        pass
    return False


def chain_from(bucket: Bucket, keys: List[bytes], chain: str, names: List[str]) -> Optional[Tuple[str, State]]:
    """What there is after the records `names`, and when the last was made; None if the first cannot be read."""
    state, before, made = (Table(), Table()), None, ""  # type: Tuple[State, Optional[Tuple[int, str]], str]
    for name in names:
        try:
            record = record_in(bucket, keys, chain, name)
            if before is None and record["sequence"] != 1:
                if not record["state"]:
                    raise Damaged("what was before it is missing")
                read_state(bucket, record["state"], state)
        except (Damaged, ValueError, KeyError) as error:
            bucket.problem("index/%s/%s: %s" % (chain, name, error))
            if before is None:
                return None
            continue
        if before and (record["sequence"], record["previous"]) != (before[0] + 1, before[1]):
            bucket.problem("the records %d and %d do not follow one another" % (before[0], record["sequence"]))
        for path in record["removed"]:
            state[0].remove(path)
            state[1].remove(os.path.basename(path)[:-4] if path.startswith(CHUNKS) else "")
        state[0].update(record["files"].items())
        state[1].update(record["chunks"].items())
        before, made = (record["sequence"], name[9:73]), record["made"]
    return (made, state) if before else None


def read_state(bucket: Bucket, value: Any, state: State) -> None:
    """Fill `state`, which is empty, with what the file `value` says. Raises Damaged, ValueError."""
    with tempfile.TemporaryFile() as file:
        for piece in bucket.file(value):
            file.write(piece)
        file.seek(0)
        command = ["zstd", "-dcq", "--memory=128MB"]
        with subprocess.Popen(command, stdin=file, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as child:
            assert child.stdout is not None
            text = Text(child.stdout)
            text.skip('{"files": ')
            state[0].update(text.members())
            text.skip(', "chunks": ')
            state[1].update(text.members())
            text.skip("}")


def inside(root: str, path: str) -> bytes:
    """Where a file goes. Raises Damaged for what would lie outside."""
    if "\0" in path or any(part in ("", ".", "..") for part in path.split("/")):
        raise Damaged("%r does not lie below ROOT_PATH" % path)
    return os.fsencode(os.path.join(root, path))


def write(bucket: Bucket, value: Any, target: bytes) -> None:
    """Write a file. It has its name when it is proved."""
    os.makedirs(os.path.dirname(target), 0o700, exist_ok=True)
    half = target + b".half"
    with open(half, "wb") as out:
        for piece in bucket.file(value):
            out.write(piece)
    os.utime(half, ns=(value[2], value[2]))
    os.rename(half, target)


def needed(root: str, paths: List[str]) -> Table:
    """The chunks that the manifests among `paths` name."""
    names = Table()
    for path in paths:
        if path.endswith(".manifest.zst") and os.path.exists(inside(root, path)):
            with open(inside(root, path), "rb") as file:
                for line in expanded(file.read()).splitlines():
                    names.update((name, 0) for name, _, _ in json.loads(line.decode()).get("extents") or ())
    return names


def restore(bucket: Bucket, state: State, root: str, dst: str) -> None:
    """Make the folder `root`."""
    files, chunks = state
    beginning = dst.strip("/") + "/" if dst else ""
    paths = sorted(path for path in files if path.startswith(beginning) or path.startswith(".store/"))
    if not any(path.startswith(beginning) for path in paths):
        raise Stopped("there is nothing in %s" % dst)
    os.mkdir(root, 0o700)
    for path in paths:
        try:
            write(bucket, files.get(path), inside(root, path))
        except (Damaged, OSError, ValueError) as error:
            bucket.problem("%s: %s" % (path, error))
    wanted = needed(root, paths) if dst else chunks
    if any(True for _ in wanted) and not os.path.exists(os.path.join(root, ".store", "format.json")):
        os.makedirs(os.path.join(root, ".store"), 0o700, exist_ok=True)
        with open(os.path.join(root, ".store", "format.json"), "w", encoding="ascii") as file:
            file.write('{"format": 1}\n')
    for name in wanted:
        try:
            write_chunk(bucket, chunks.get(name), name, inside(root, "%s%s/%s.zst" % (CHUNKS, name[:2], name)))
        except (Damaged, OSError, ValueError) as error:
            bucket.problem("the chunk %s: %s" % (name, error))


def write_chunk(bucket: Bucket, ref: Any, name: str, target: bytes) -> None:
    """Write a chunk, which is proved by its name."""
    if ref is None:
        raise Damaged("it is not there")
    frame = bucket.piece(ref)
    if hashlib.sha256(expanded(frame)).hexdigest() != name:
        raise Damaged("it is another one")
    os.makedirs(os.path.dirname(target), 0o700, exist_ok=True)
    with open(target, "wb") as out:
        out.write(frame)


def run(options: argparse.Namespace) -> int:
    """Do what was asked for; the exit status."""
    bucket = Bucket(options.bucket, options.identity)
    state = state_of(bucket, store_keys(bucket, options.fingerprint + pins(options.identity)))
    if options.root:
        restore(bucket, state, options.root, options.dst or "")
        os.sync()
    else:
        for path, value in state[0].items():
            print("%d\t%s" % (value[0], path.encode("ascii", "backslashreplace").decode()))
    if bucket.problems:
        say("%d things are missing or damaged" % bucket.problems)
    return 5 if bucket.problems else 0


def main() -> int:
    """Run the command line; the exit status."""
    os.umask(0o077)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    here = os.path.dirname(os.path.realpath(__file__))
    parser.add_argument("--bucket", default=here, help="the copy of what lies at the target")
    parser.add_argument("--identity", action="append", default=[], metavar="KEY", help="the file with the secret key")
    parser.add_argument("--fingerprint", action="append", default=[], metavar="HEX", help="of the right store key")
    parser.add_argument("root", nargs="?", metavar="ROOT", help="the new folder")
    parser.add_argument("dst", nargs="?", metavar="DST", help="only what is there, and below")
    try:
        return run(parser.parse_args())
    except Stopped as stop:
        say(str(stop))
        return stop.status
    except FAILURES as error:
        say(str(error))
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
