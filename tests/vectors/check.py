#!/usr/bin/env python3
"""Reads keys.json with nothing but the standard library and recomputes all of it."""
import hashlib, hmac, json, re, sys, zlib

DIGITS = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def number(digits):
    value = 0
    for digit in digits:
        value = value * 62 + DIGITS.index(digit)  # ValueError: not base62
    return value


def mac(key, message):
    return hmac.new(bytes.fromhex(key), message, hashlib.sha256).digest()


def judge(text, vectors):
    """A refusal (outcome, reason), or what the key is, as a dict."""
    prefix, underscore, digits = (part.encode() for part in text.rpartition("_"))
    if not underscore or prefix.decode() not in vectors["prefixes"]:
        return "MALFORMED", "prefix"
    if len(digits) != 49:
        return "MALFORMED", "length"
    crc = zlib.crc32(text.encode()[:-6])
    try:
        if number(digits[43:]) != crc:
            return "MALFORMED", "checksum"
        body = number(digits[:43]).to_bytes(32, "big")
    except (ValueError, OverflowError):
        return "MALFORMED", "digits"
    random, tag = body[:24], body[24:]
    for generation in vectors["generations"]:
        if mac(generation["tag_key"], prefix + b"_" + random)[:8] == tag:
            return {
                "text": text, "prefix": prefix.decode(), "random": random.hex(), "tag": tag.hex(),
                "crc32": f"{crc:08x}", "generation": generation["number"],
                "digest": mac(generation["pepper"], text.encode()).hex(),
                "hint": text[: len(prefix) + 5],
            }
    return "NOT_FOUND", "tag"


vectors = json.load(open(sys.argv[1], encoding="utf-8"))
wrong = [good for good in vectors["good"] if judge(good["text"], vectors) != good]
wrong += [bad for bad in vectors["broken"] if judge(bad["text"], vectors) != (bad["outcome"], bad["reason"])]
wrong += [good for good in vectors["good"]
          if good["prefix"] == "kw" and not re.fullmatch(vectors["scanner_regex"], good["text"])]
if wrong or not vectors["good"] or not vectors["broken"]:
    sys.exit(f"these vectors do not hold: {json.dumps(wrong, indent=2)}")
