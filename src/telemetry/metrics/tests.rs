use super::*;

#[test]
fn every_metric_has_help_and_the_aliases_follow() {
    let metrics = Metrics::new();
    metrics.name_model("lab/echo");
    metrics.set_waiting(3);
    metrics.set_load(2, 512, 1024);
    metrics.tick(&TickStats { sequences: 2, rows: 20, refreshes: 1, refinements: 1, seconds: 0.01 });
    metrics.admitted(0.5);
    metrics.first_block(0.25);
    let stats = FinishStats {
        method: "evotoken",
        prompt_tokens: 7,
        tokens: 6,
        nfe: 3,
        canvas_positions: 8,
        revisions: 1,
        seconds: 1.5,
    };
    metrics.finished(Outcome::Stop, &stats);
    metrics.http_reply("/health", "GET", 200);
    let text = metrics.render();
    for line in [
        "# HELP evotoken_sequences_waiting Sequences waiting for a slot.",
        "evotoken_sequences_waiting 3",
        "vllm:num_requests_running{engine=\"0\",model_name=\"lab/echo\"} 2",
        "vllm:kv_cache_usage_perc{engine=\"0\",model_name=\"lab/echo\"} 0.5",
        "vllm:generation_tokens_total{engine=\"0\",model_name=\"lab/echo\"} 6",
        "vllm:diffusion_num_denoising_steps_total{engine=\"0\",model_name=\"lab/echo\"} 3",
        "vllm:diffusion_num_canvas_positions_total{engine=\"0\",model_name=\"lab/echo\"} 8",
        "vllm:time_to_first_token_seconds_sum{engine=\"0\",model_name=\"lab/echo\"} 0.25",
        "vllm:request_queue_time_seconds_sum{engine=\"0\",model_name=\"lab/echo\"} 0.5",
        "vllm:e2e_request_latency_seconds_sum{engine=\"0\",model_name=\"lab/echo\"} 1.5",
        "evotoken_step_seconds_count{phase=\"mixed\"} 1",
        "evotoken_sequences_finished_total{outcome=\"stop\"} 1",
        "evotoken_sequences_finished_total{outcome=\"failed\"} 0",
        "evotoken_tokens_per_forward_sum{method=\"evotoken\"} 2",
        "evotoken_revisions_total{method=\"evotoken\"} 1",
        "vllm:request_success_total{engine=\"0\",model_name=\"lab/echo\",finished_reason=\"stop\"} 1",
        "vllm:request_success_total{engine=\"0\",model_name=\"lab/echo\",finished_reason=\"abort\"} 0",
        "evotoken_model_info{model=\"lab/echo\"} 1",
        "evotoken_http_requests_total{method=\"GET\",route=\"/health\",status=\"200\"} 1",
    ] {
        assert!(text.lines().any(|l| l == line), "no line {line:?} in\n{text}");
    }
}

#[test]
fn aliases_wait_for_the_model_s_name_and_keep_the_first() {
    let metrics = Metrics::new();
    assert!(!metrics.render().contains("vllm:"));
    metrics.name_model("first");
    metrics.name_model("another");
    let text = metrics.render();
    let aliases: Vec<&str> = text.lines().filter(|line| line.starts_with("vllm:")).collect();
    assert!(aliases.len() > 80);
    for line in aliases {
        assert!(line.contains("engine=\"0\",model_name=\"first\""), "{line}");
    }
    assert!(!text.contains("another"), "{text}");
}

#[test]
fn several_engines_are_told_apart_and_the_server_s_own_numbers_stand_once() {
    let metrics = Arc::new(Metrics::new());
    let engines = metrics.of_engines(3);
    metrics.name_model("m");
    metrics.set_waiting(4);
    for (engine, running) in engines.iter().zip([5, 0, 7]) {
        engine.set_load(running, 0, 1);
    }
    engines[2].finished(Outcome::Stop, &FinishStats { method: "mask", nfe: 1, ..FinishStats::default() });
    let text = metrics.render();
    for line in [
        "evotoken_sequences_running{engine=\"0\"} 5",
        "evotoken_sequences_running{engine=\"1\"} 0",
        "evotoken_sequences_running{engine=\"2\"} 7",
        "evotoken_sequences_waiting 4",
        "vllm:num_requests_waiting{engine=\"0\",model_name=\"m\"} 4",
        "vllm:num_requests_running{engine=\"2\",model_name=\"m\"} 7",
        "evotoken_sequences_finished_total{engine=\"2\",outcome=\"stop\"} 1",
        "evotoken_nfe_count{engine=\"2\",method=\"mask\"} 1",
        "evotoken_model_info{model=\"m\"} 1",
    ] {
        assert!(text.lines().any(|l| l == line), "no line {line:?} in\n{text}");
    }
    let of = |name: &str| text.lines().filter(|line| line.starts_with(name)).count();
    assert_eq!((of("evotoken_build_info"), of("vllm:num_requests_waiting")), (1, 1));
    assert_eq!(of("# HELP evotoken_sequences_running "), 1);
}
