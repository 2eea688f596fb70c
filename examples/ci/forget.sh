#!/usr/bin/env bash
# A deletion request arrives: log it, carry it out, audit the result, write it into the ledger, release the model.
set -euo pipefail
cd "$(dirname "$0")"
unlearnkit ledger add deletions.jsonl --id DR-2026-017 --state received --forget-class 3
unlearnkit audit deletion.toml --out audit                     # stops here unless the verdict is PASS
unlearnkit unlearn deletion.toml --out audit                   # finds the model made, and writes it
cp audit/unlearned.safetensors model.safetensors
unlearnkit ledger add deletions.jsonl audit/audit.json
unlearnkit ledger add deletions.jsonl --id DR-2026-017 --state released --model model.safetensors
