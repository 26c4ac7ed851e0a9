use super::*;

const MASK: u32 = 99;

/// One prompt token, two blocks of two; one position a step.
fn state(method: Method) -> State {
    let options = DecodeOptions {
        method: Some(method),
        steps: Some(4),
        block_length: Some(2),
        k_soft: Some(2),
        alpha: Some(0.5),
        ..DecodeOptions::default()
    };
    let params = options.resolve(4, 100).expect("the options are in range");
    State::new(&[7], 4, params, Attention::Full, MASK)
}

/// Every needed row guesses token 10 + row with 0.6, and 20 + row with 0.2; the first row is a little surer.
fn step(state: &mut State) -> StepReport {
    let rows = state.plan().needed();
    let row = |r: usize| [(10 + r as u32, if r == 0 { 0.7 } else { 0.6 }), (20 + r as u32, 0.2)];
    let top_k = state.top_k();
    let candidates: Vec<_> = (0..rows).flat_map(|r| row(r).into_iter().take(top_k)).collect();
    let guesses: Vec<_> = (0..rows).map(|r| row(r)[0]).collect();
    let logs = vec![0.0; candidates.len()];
    let view = RowsView {
        top_k,
        guesses: &guesses,
        candidates: &candidates,
        log_guesses: &logs[..rows],
        log_candidates: &logs,
    };
    state.advance(view)
}

fn pairs(state: &State, position: usize) -> Vec<(u32, f32)> {
    state.pairs(position).map(|(id, weight)| (id, (weight * 1000.0).round() / 1000.0)).collect()
}

#[test]
fn a_method_keeps_the_soft_states_it_is_named_after() {
    let hard = vec![(10, 1.0)];
    let soft = vec![(10, 0.778), (20, 0.222)];
    let mask = vec![(MASK, 1.0)];
    let soft_mask = vec![(11, 0.375), (21, 0.125), (MASK, 0.5)];
    let later = vec![(12, 0.375), (22, 0.125), (MASK, 0.5)];
    let cases = [
        (Method::Mask, &hard, &mask, &mask),
        (Method::SoftMask, &hard, &soft_mask, &later),
        (Method::SoftToken, &soft, &mask, &mask),
        (Method::Evotoken, &soft, &soft_mask, &later),
    ];
    for (method, decided, undecided, in_the_next_block) in cases {
        let mut state = state(method);
        step(&mut state);
        assert_eq!(&pairs(&state, 1), decided, "{method:?}, decided");
        assert_eq!(&pairs(&state, 2), undecided, "{method:?}, undecided");
        assert_eq!(&pairs(&state, 3), in_the_next_block, "{method:?}, next block");
    }
}

#[test]
fn every_method_ends_with_a_token_in_each_place() {
    for method in [Method::Mask, Method::SoftMask, Method::SoftToken, Method::Evotoken] {
        let mut state = state(method);
        let mut steps = 0;
        while !state.done() {
            step(&mut state);
            steps += 1;
        }
        assert_eq!((steps, state.tokens()), (4, [7, 10, 11, 10, 11].as_slice()), "{method:?}");
        assert!((0..5).all(|position| state.phase(position) == Phase::Decoded), "{method:?}");
    }
}
