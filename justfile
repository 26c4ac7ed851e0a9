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

# Licences, duplicate versions and sources of the dependencies (needs cargo-deny).
deny:
    cargo deny --locked check licenses bans sources

# The golden cases of another folder in the format of tests/fixtures.
goldens DIR:
    GOLDENS_DIR={{DIR}} cargo test --locked --test golden -- --nocapture

# Write openapi.yaml anew from the code.
openapi:
    EVOTOKEN_BLESS=1 cargo test --locked --test api description

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

# Requests made from openapi.yaml: every reply must be as it says.
schemathesis: (clients "api_description")
