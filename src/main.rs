//! `evotoken`: settings, model, engine, routes, and an orderly end.

use std::io::Write;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;
use evotoken::api::serve::{ConnectionLimits, serve};
use evotoken::api::{self, App};
use evotoken::backend::CandleBackend;
use evotoken::command;
use evotoken::config::{self, Flags, Settings};
use evotoken::engine::request::Limits;
use evotoken::engine::{self, EngineHandle, EngineLimits, ModelInfo};
use evotoken::hub::{self, Hub};
use evotoken::model::ModelSource;
use evotoken::model::marker::Marker;
use evotoken::service::{GenerationDefaults, Service, ServiceParts};
use evotoken::telemetry::{self, LogFormat, Metrics};
use evotoken::text::chat_template::ChatTemplate;
use evotoken::text::{Tokenizer, TokenizerConfig};
use tokio::net::TcpListener;
use tokio::runtime::Builder;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Time for the last bytes of replies to leave once nothing runs any more.
const FLUSH: Duration = Duration::from_secs(5);

/// Buffers of one step are there for the next: the system's allocator would return large ones to the kernel, and every step
/// would fault them in again.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How long the allocator keeps memory that nobody uses, in milliseconds: longer than most steps take.
const KEPT: std::ffi::c_long = 10_000;

fn main() -> ExitCode {
    // SAFETY: no other thread has been started yet.
    unsafe { config::keep_candle_on_its_thread() };
    keep_memory();
    let flags = Flags::parse();
    if let Some(command) = &flags.command {
        return ended(command::run(command, &mut std::io::stdout()).map_err(Into::into));
    }
    let runtime = Builder::new_multi_thread().enable_all().build().context("cannot start threads");
    let result = runtime.and_then(|runtime| {
        let result = runtime.block_on(run(&flags));
        // A download or a load that was interrupted is not waited for.
        runtime.shutdown_background();
        result
    });
    ended(result.map(|()| ExitCode::SUCCESS))
}

/// Tell the allocator, where `MIMALLOC_PURGE_DELAY` does not.
fn keep_memory() {
    // `mi_option_purge_delay` of mimalloc.h, versions 2 and 3, which the bindings do not name.
    const PURGE_DELAY: std::ffi::c_int = 15;
    // SAFETY: it sets a number; the options of both versions go beyond this one.
    unsafe { libmimalloc_sys::mi_option_set_default(PURGE_DELAY, KEPT) };
}

/// The exit status of how it went; a mistake is told.
fn ended(result: Result<ExitCode>) -> ExitCode {
    result.unwrap_or_else(|error| {
        eprintln!("evotoken: {error:#}");
        ExitCode::FAILURE
    })
}

async fn run(flags: &Flags) -> Result<()> {
    let settings = Settings::load(flags)?;
    if flags.check_config {
        say(&settings.render());
        return Ok(());
    }
    let _exporter = telemetry::init(&settings.log)?;
    let mut signals = Signals::new()?;
    let address = SocketAddr::new(settings.server.host, settings.server.port);
    let listener = TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))?;
    let address = listener.local_addr()?;
    let metrics = Arc::new(Metrics::new());
    let app = Arc::new(App::new(settings.server.clone(), Arc::clone(&metrics)));
    let stop = CancellationToken::new();
    let (router, limits) = (api::router(Arc::clone(&app)), ConnectionLimits::from(&settings.server));
    let stopped = stop.clone().cancelled_owned();
    let server = tokio::spawn(serve(listener, router, limits, Arc::clone(&metrics), stopped));

    let loading = tokio::task::spawn_blocking({
        let (settings, hub) = (settings.clone(), config::hub());
        move || load(&settings, &hub, metrics)
    });
    let (service, engine) = tokio::select! {
        loaded = loading => loaded??,
        () = signals.next() => return Ok(()),
    };
    service.warm_up().await.context("the model cannot answer")?;
    let names = service.names().to_vec();
    app.open(service);
    let adapters: Vec<&String> = settings.model.adapters.keys().collect();
    tracing::info!(%address, models = ?names, ?adapters, "ready");
    if settings.log.format == LogFormat::Text {
        greet(address, &names[0], settings.server.playground);
    }

    signals.next().await;
    app.retire();
    linger(&mut signals, settings.server.drain_delay()).await;
    app.drain();
    drain(&engine, &mut signals, settings.server.drain_timeout()).await;
    stop.cancel();
    if tokio::time::timeout(FLUSH, server).await.is_err() {
        tracing::warn!("some connections did not close in time");
    }
    Ok(())
}

/// Load the model, from the hub if it is there, and start its engine.
fn load(settings: &Settings, hub: &Hub, metrics: Arc<Metrics>) -> Result<(Service, EngineHandle)> {
    let model = &settings.model;
    let source = hub::or_bundled(model.path.as_deref(), hub)?;
    let place = source.place();
    let load = |placement| {
        CandleBackend::load_to_serve(&source, placement, settings.engine.kv_bytes)
            .with_context(|| place.clone())
    };
    let backends = model.placements().map(load).collect::<Result<Vec<_>>>()?;
    let tokenizer = Arc::new(Tokenizer::load(&source).with_context(|| place.clone())?);
    let template = ChatTemplate::find(&source).with_context(|| place.clone())?;
    let texts = TokenizerConfig::load(&source).with_context(|| place.clone())?;
    let defaults = GenerationDefaults::load(&source).with_context(|| place.clone())?;
    let marker = Marker::load(&source).with_context(|| place.clone())?;
    let config = backends[0].config();
    let eos_ids = defaults.eos_ids.clone().unwrap_or_else(|| config.eos_ids.clone());
    let info = ModelInfo { mask_id: config.mask_id, eos_ids };
    let limits = Limits {
        // What the model cannot hold anyway is not offered.
        max_prompt_tokens: settings.limits.max_prompt_tokens.min(config.max_positions),
        max_new_tokens: settings.limits.max_new_tokens.min(config.max_positions),
        max_stop_strings: settings.limits.max_stop_strings,
        max_scored_tokens: settings.limits.max_scored_tokens,
        ..Limits::of_model(&info, config.vocab, config.max_positions)
    };
    let adapter_loaders = backends.iter().map(CandleBackend::adapter_loader).collect();
    let (engines, kv_bytes) = (backends.len(), kv_bytes(&backends, settings.engine.kv_bytes));
    let engine_limits = EngineLimits { kv_bytes, ..EngineLimits::from(&settings.engine) };
    let engine = engine::start_all(backends, info, engine_limits, metrics).context("the engine threads")?;
    let service = Service::new(ServiceParts {
        names: served_names(&settings.model.served_names, &source),
        root: source.name(),
        tokenizer,
        limits,
        attention: model.attention.or(marker.attention).unwrap_or_default(),
        adapter_loaders,
        max_choices: settings.max_choices(),
        timeout: Some(settings.server.request_timeout()),
        decode: settings.decode,
        defaults,
        guides: settings.limits.guides(),
        engine: engine.clone(),
    });
    for (name, folder) in &model.adapters {
        service.load_adapter(name, &ModelSource::folder(folder))?;
    }
    tracing::info!(engines, kv_bytes, "the model is loaded; so many bytes of K/V memory for each engine");
    Ok((service.with_texts(template, texts), engine))
}

/// K/V memory of each engine, in bytes: what the device with the least can give, so that a request that fits one fits all.
fn kv_bytes(backends: &[CandleBackend], asked: Option<usize>) -> usize {
    let budgets = backends.iter().map(|backend| backend.kv_budget(asked));
    budgets.min().unwrap_or(engine::KV_BYTES)
}

/// What clients may call the model: as they were told, else as it calls itself.
fn served_names(names: &[String], source: &ModelSource) -> Vec<String> {
    if names.is_empty() { vec![source.name()] } else { names.to_vec() }
}

fn greet(address: SocketAddr, model: &str, playground: bool) {
    let page = if playground { "a page to watch it; " } else { "" };
    say(&format!(
        "evotoken serves {model} on http://{address} ({page}API: http://{address}/docs). Try:
  curl http://{address}/v1/completions -H 'Content-Type: application/json' \\
    -d '{{\"prompt\": \"Numbers: [30, 100, 93]\\nTarget: 23\"}}'
"
    ));
}

/// Print, unless nobody listens: `println!` would end the server when its reader has gone.
fn say(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}

/// Time for load balancers to notice that the server is not ready, while it still takes requests. Another signal ends it.
async fn linger(signals: &mut Signals, delay: Duration) {
    // Without a delay a signal that comes at once is the second one, which ends what runs.
    if !delay.is_zero() {
        tracing::info!(delay_s = delay.as_secs(), "not ready any more: requests are still taken for a while");
        tokio::select! {
            () = tokio::time::sleep(delay) => {}
            () = signals.next() => {}
        }
    }
}

/// Let what waits or runs end; a second signal or the timeout ends it.
async fn drain(engine: &EngineHandle, signals: &mut Signals, timeout: Duration) {
    tracing::info!(timeout_s = timeout.as_secs(), "shutting down: running answers are finished");
    engine.stop_admitting();
    tokio::select! {
        () = engine.ended() => return,
        () = signals.next() => tracing::warn!("a second signal: running answers are cut off"),
        () = tokio::time::sleep(timeout) => tracing::warn!("the drain timeout: running answers are cut off"),
    }
    engine.stop();
    engine.ended().await;
}

/// The signals that ask a process to end.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
