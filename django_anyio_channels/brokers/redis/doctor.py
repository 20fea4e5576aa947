"""What to change about a Redis server: rights, version, memory, persistence, buffers, connections, clock, TLS.

Rights are tried: each command runs on a key that is not there, or on one that this makes and deletes. ``INFO`` and
``CONFIG GET`` are not needed otherwise; where they are forbidden, as at many providers, a finding says so.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from typing import Any

import hiredis

from ...core.diagnosis import clock_finding, tls_finding
from ...core.inspection import Finding
from .keys import NODES
from .packets import CommandExecutor, encode_command, permission_cure
from .session import Session

_SCRATCH_MS = 10_000
_OLDEST = (6, 2)
_OLDEST_IN_CLUSTER = (7, 0)
_MIB = 1024 * 1024

_COMMANDS = (
    *("SET {key} x XX", "HSET {key} field x", "PEXPIRE {key} {ms}", "HGET {key} field", "HGETALL {key}", "HKEYS {key}"),
    *("HDEL {key} other", "GET {key}", "LLEN {key}", "LINDEX {key} 0", "LPOP {key}", "LPUSH {key} x", "LREM {key} 0 x"),
    *("RPOP {key}", "RPUSH {key} x", "PTTL {key}", "ZADD {key} XX 1 x", "ZRANGE {key} 0 0", "ZREM {key} x"),
    *("ZREMRANGEBYSCORE {key} 0 0", "SCAN 0 COUNT 1", "TIME", "ROLE", "EVAL return(1) 1 {key}"),
    *("EVALSHA 0 1 {key}", "DEL {key}"),
)
"""The commands of the layer and of its scripts. A key of another type is no matter: rights are looked at before."""
_STREAM_COMMANDS = (
    *("HEXISTS {key} field", "HINCRBY {key} number 1", "HLEN {key}", "LRANGE {key} 0 0", "LTRIM {key} 0 0"),
    *("XADD {key} NOMKSTREAM * field x", "XDEL {key} 1-1", "XLEN {key}", "XRANGE {key} - +", "XREVRANGE {key} + -"),
    *("XTRIM {key} MAXLEN 1", "ZCARD {key}", "ZRANGEBYSCORE {key} 0 0", "DEL {key}"),
)
_PUBSUB_COMMANDS = ("PUBLISH {channel} ", "PUBLISH {nodes} ", "PUBSUB NUMSUB {channel}")
_CLUSTER_COMMANDS = ("SPUBLISH {channel} ", "SPUBLISH {nodes} ", "PUBSUB SHARDNUMSUB {channel}", "CLUSTER SLOTS")


async def diagnose(session: Session, location: object, largest_message: int, *, streams: bool = False) -> list[Finding]:
    """See `SupportsDiagnosis`. ``streams``: groups have a history, and jobs are acknowledged."""
    clustered = session.publish_command == "SPUBLISH"
    found: list[Finding] = []
    keys = session.companion_keys("doctor")
    for key in keys:
        executor = session.executor(key)
        address = str(executor)
        found.append(_tls(address))
        found += await _rights(session, executor, address, key, streams)
        found.append(await _clock(session, executor, address))
        info = await executor.execute(encode_command("INFO"))
        if isinstance(info, hiredis.ReplyError):
            text = f"{address} does not say its version, memory, persistence and connections: {_refusal(info)}"
            cure = "Allow +info, or look at the console of the provider: no eviction, and persistence as you need it"
            found.append(Finding("unknown", text, cure))
        else:
            found += _from_info(address, _parse(info), clustered=clustered, streams=streams)
        reply = await executor.execute(encode_command("CONFIG", "GET", "client-output-buffer-limit"))
        found.append(_buffers(address, reply, largest_message))
    if clustered and len(keys) < _FEWEST_MASTERS:
        text = f"{location} has {len(keys)} masters, which cannot elect the successor of one that fails"
        found.append(Finding("warning", text, "Run three masters or more, each with a replica"))
    return found


_FEWEST_MASTERS = 3


def _tls(address: str) -> Finding:
    scheme, _, place = address.partition("://")
    host = "" if scheme == "unix" else re.sub(r":[0-9]*(/[0-9]*)?$", "", place)
    cure = "Write rediss:// and have the server offer TLS, or keep both in a private network"
    return tls_finding(address, host, encrypted=scheme == "rediss", cure=cure)


async def _rights(
    session: Session, executor: CommandExecutor, address: str, key: bytes, streams: bool
) -> list[Finding]:
    clustered = session.publish_command == "SPUBLISH"
    hash_part = key[: key.find(b"}") + 1]
    names = {
        b"{key}": key,
        b"{ms}": b"%d" % _SCRATCH_MS,
        b"{channel}": session.subscriptions.wire_name(key),
        b"{nodes}": session.subscriptions.wire_name(
            NODES + (hash_part if clustered else b"") + b":" + session.peers.scope + b"doctor"
        ),
    }
    commands = (
        *_COMMANDS,
        *(_CLUSTER_COMMANDS if clustered else _PUBSUB_COMMANDS),
        *(_STREAM_COMMANDS if streams else ()),
    )
    cures: dict[str, None] = {}
    for command in commands:
        words = [names.get(word, word) for word in command.encode().split(b" ")]
        reply = await executor.execute(encode_command(*words))
        if isinstance(reply, hiredis.ReplyError) and str(reply).startswith("NOPERM"):
            cures[_right(permission_cure(str(reply)))] = None
    if not cures:
        return [Finding("ok", f"The user at {address} has the rights that the layer needs")]
    text = f"The user at {address} lacks rights: {' '.join(cures)}"
    return [Finding("error", text, f"Run `ACL SETUSER user {' '.join(cures)}`, or connect as another user")]


def _right(cure: str) -> str:
    found = re.search(r"ACL SETUSER user ([^`]+)`", cure)
    return found[1] if found else "+@all"


async def _clock(session: Session, executor: CommandExecutor, address: str) -> Finding:
    before = time.time()
    reply = await executor.execute(encode_command("TIME"))
    if isinstance(reply, hiredis.ReplyError):
        return Finding("unknown", f"{address} does not say what time it is: {_refusal(reply)}", "Allow +time")
    return clock_finding(address, int(reply[0]) + int(reply[1]) / 1e6, before, time.time())


def _parse(info: bytes) -> dict[str, str]:
    lines = info.decode(errors="replace").splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line and not line.startswith("#"))


def _from_info(address: str, info: dict[str, str], *, clustered: bool, streams: bool) -> Iterator[Finding]:
    yield _version(address, info, _OLDEST_IN_CLUSTER if clustered else _OLDEST)
    yield _eviction(address, info)
    yield from _memory(address, info)
    yield _persistence(address, info, streams)
    yield from _connections(address, info)
    if clustered and info.get("connected_slaves") == "0":
        text = f"{address} has no replica: its slots, and with them its groups, fail when it does"
        yield Finding("warning", text, "Add a replica to each master")


def _version(address: str, info: dict[str, str], oldest: tuple[int, int]) -> Finding:
    names = {"valkey_version": "Valkey", "dragonfly_version": "Dragonfly", "redis_version": "Redis"}
    key = next((each for each in names if each in info), None)
    if key is None:
        return Finding("unknown", f"{address} does not say which version it is")
    text = f"{address} is {names[key]} {info[key]}"
    # What the others are compatible with.
    numbers = re.findall(r"\d+", info.get("redis_version", info[key]))[:2]
    if tuple(map(int, numbers)) < oldest:
        needed = ".".join(map(str, oldest))
        return Finding("error", f"{text}, which is too old", f"Use Redis {needed} or newer, or Valkey")
    return Finding("ok", text)


def _eviction(address: str, info: dict[str, str]) -> Finding:
    policy = info.get("maxmemory_policy")
    if policy is None:
        return Finding("unknown", f"{address} does not say what it evicts when its memory is full")
    if policy == "noeviction" or info.get("maxmemory", "0") == "0":
        return Finding("ok", f"{address} evicts nothing")
    text = f"{address} evicts keys when its memory is full (maxmemory-policy {policy}), and with them messages"
    return Finding(
        "warning", text, "Set maxmemory-policy noeviction, or give the layer a server of its own beside the cache"
    )


def _memory(address: str, info: dict[str, str]) -> Iterator[Finding]:
    used, limit = int(info.get("used_memory", 0)), int(info.get("maxmemory", 0))
    if limit and used > 0.9 * limit:
        text = f"{address} uses {used // _MIB} of {limit // _MIB} MiB of its memory"
        yield Finding("warning", text, "Raise maxmemory, or lower capacity, expiry or history_bytes")


def _persistence(address: str, info: dict[str, str], streams: bool) -> Finding:
    if info.get("rdb_last_bgsave_status") == "err" or info.get("aof_last_write_status") == "err":
        text = f"{address} failed to write its data to disk, and may refuse to change it"
        return Finding("error", text, "See its log: the disk may be full, or not be its user's")
    if "aof_enabled" not in info:
        return Finding("unknown", f"{address} does not say whether it keeps its data on disk")
    if info["aof_enabled"] == "1":
        return Finding("ok", f"{address} keeps its data on disk (appendonly)")
    if not streams:
        text = f"{address} keeps no log of its data: a restart empties normal channels, and groups have nothing to lose"
        return Finding("ok", text)
    text = f"{address} keeps no log of its data, so a restart loses histories and acknowledged jobs"
    return Finding("warning", text, "Set appendonly yes, or have a replica take over")


def _connections(address: str, info: dict[str, str]) -> Iterator[Finding]:
    used, limit = int(info.get("connected_clients", 0)), int(info.get("maxclients", 0))
    if limit and used > 0.8 * limit:
        text = f"{address} has {used} of {limit} connections; each node takes two"
        yield Finding("warning", text, "Raise maxclients, or run fewer processes")
    cut_off = int(info.get("client_output_buffer_limit_disconnections", 0))
    if cut_off:
        text = f"{address} has cut off {cut_off} clients that read too slowly"
        yield Finding("warning", text, "Raise client-output-buffer-limit pubsub, and look for blocked event loops")


def _buffers(address: str, reply: Any, largest_message: int) -> Finding:
    if isinstance(reply, hiredis.ReplyError) or len(reply) < 2:
        refusal = _refusal(reply) if isinstance(reply, hiredis.ReplyError) else "it has no such setting"
        text = f"{address} does not say how much it keeps for a slow subscriber: {refusal}"
        return Finding(
            "unknown", text, f"client-output-buffer-limit pubsub should be 0, or {8 * largest_message} bytes"
        )
    limits = re.search(r"pubsub (\d+) (\d+) (\d+)", reply[1].decode())
    hard, soft = (int(limits[1]), int(limits[2])) if limits else (0, 0)
    least = min((each for each in (hard, soft) if each), default=0)
    if least and least < 2 * largest_message:
        return Finding(
            "warning",
            f"{address} cuts a subscriber off that is {least // _MIB} MiB behind, and a message may have "
            f"{largest_message / _MIB:g} MiB",
            f"Set client-output-buffer-limit to `pubsub {8 * largest_message} {4 * largest_message} 60`, or lower "
            f"max_message_size in CONFIG",
        )
    return Finding(
        "ok", f"{address} keeps {f'up to {least // _MIB} MiB' if least else 'any amount'} for a slow subscriber"
    )


def _refusal(reply: hiredis.ReplyError) -> str:
    return str(reply).rstrip(".")
