#!/usr/bin/env bash
# What CI runs on every commit: the ledger is whole, and the model about to ship keeps every deletion in it.
set -euo pipefail
cd "$(dirname "$0")"
unlearnkit ledger verify deletions.jsonl
unlearnkit check deletions.jsonl --model model.safetensors --junit check.xml --summary check.md --sarif check.sarif
