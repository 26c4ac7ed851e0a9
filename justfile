# Everything a commit must pass.
check: fmt lint test doc

# Formatting.
fmt:
    cargo fmt --check

# Lints; warnings are errors.
lint:
    cargo clippy --all-targets --locked -- -D warnings

# The README's test command.
test:
    cargo test --locked

# Documentation without warnings.
doc:
    RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --locked

# Licences, duplicate versions and sources of the dependencies (needs cargo-deny; `just deployments` brings its own).
deny:
    cargo deny --locked check licenses bans sources

# The golden cases of another folder in the format of tests/fixtures.
goldens DIR:
    GOLDENS_DIR={{DIR}} cargo test --locked --test golden -- --nocapture

# Write openapi.yaml anew from the code.
openapi:
    EVOTOKEN_BLESS=1 cargo test --locked --test api description

# Speed: the hot pieces, the metrics, and the server over HTTP with the bundled model.
bench:
    cargo bench --locked --bench hot --bench counting --bench serve

# Abuse a release server for so many seconds, then see that it gave everything back.
soak SECONDS="300":
    cargo build --release --locked
    scripts/soak.py --seconds {{SECONDS}}

# Clients that others wrote against a release server, or only some of them; logs go to docs/logs (needs Python and npm).
clients *NAMES:
    cargo build --release --locked
    scripts/clients.py --server target/release/evotoken --logs docs/logs {{NAMES}}

# The playground in headless Chromium, all tests or those whose names hold a word (needs Python, npm and Debian's chromium).
browser *NAMES:
    cargo build --release --locked
    scripts/browser.py --server target/release/evotoken {{NAMES}}

# The pictures of the playground in docs/img anew.
pictures:
    cargo build --release --locked
    scripts/browser.py --server target/release/evotoken --pictures docs/img

# A real Prometheus watches two servers; every query of the dashboard must have an answer (needs Debian's prometheus).
observe:
    cargo build --release --locked
    scripts/observe.py --server target/release/evotoken --log docs/logs/observe.txt

# Three servers behind HAProxy and nginx: drained, killed, back (needs Debian's haproxy and nginx-light).
replicas:
    cargo build --release --locked
    scripts/replicas.py --server target/release/evotoken --log docs/logs/replicas.txt

# docker/, deploy/ and the dependencies with other people's linters and schemas (needs Python, npm, systemd-analyze).
deployments:
    cargo build --release --locked
    scripts/deployments.py --server target/release/evotoken --log docs/logs/deployments.txt

# The commands of the Dockerfile, in a clean folder, without a container engine.
container-build DIR:
    scripts/deployments.py --build {{DIR}}

# Lints of the code for NVIDIA GPUs, flash-attn with it, with a stand-in for CUDA's compiler.
cuda-typecheck:
    CARGO_SUB=clippy scripts/cuda-typecheck.sh --all-targets --locked -- -D warnings

# The server for NVIDIA GPUs by CUDA's compiler (104 MB from PyPI), started without a GPU; the log goes to docs/logs.
cuda-build:
    scripts/cuda-build.sh

# A report of what a GPU does with this code: golden cases, batch invariance, step times; further flags go to benches/device.rs.
gpu-check DEVICE="cuda:0" *FLAGS:
    scripts/gpu-check.sh {{DEVICE}} {{FLAGS}}

# Archive and checksum of a release, in dist/.
release:
    scripts/release.py

# Requests made from openapi.yaml: every reply must be as it says.
schemathesis: (clients "api_description")
