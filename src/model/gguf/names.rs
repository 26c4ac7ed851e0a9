//! Names of tensors: llama.cpp's, and a checkpoint's.

use super::super::Family;
use super::super::names::Names;

/// (module of llama.cpp within `blk.N.`, of a checkpoint within a layer).
fn modules(names: &Names) -> [(&'static str, &'static str); 9] {
    [
        ("attn_norm", names.norm1),
        ("attn_q", names.q),
        ("attn_k", names.k),
        ("attn_v", names.v),
        ("attn_output", names.o),
        ("ffn_norm", names.norm2),
        ("ffn_gate", names.gate),
        ("ffn_up", names.up),
        ("ffn_down", names.down),
    ]
}

/// The same outside of the layers.
fn top(names: &Names) -> [(&'static str, &'static str); 3] {
    [("token_embd", names.embedding), ("output_norm", names.final_norm), ("output", names.head)]
}

/// A checkpoint's name for a tensor of a file.
pub(super) fn checkpoint(family: Family, name: &str) -> Option<String> {
    let names = Names::of(family);
    let (path, kind) = name.rsplit_once('.')?;
    let module = match path.strip_prefix("blk.").and_then(|rest| rest.split_once('.')) {
        Some((number, part)) => {
            let (_, module) = modules(names).into_iter().find(|(theirs, _)| *theirs == part)?;
            names.module(number.parse().ok()?, module)
        }
        None => top(names).into_iter().find(|(theirs, _)| *theirs == path)?.1.to_owned(),
    };
    Some(format!("{module}.{kind}"))
}

/// A file's name for a tensor of a checkpoint.
pub(in super::super) fn in_file(family: Family, name: &str) -> Option<String> {
    let names = Names::of(family);
    let (path, kind) = name.rsplit_once('.')?;
    if let Some((theirs, _)) = top(names).into_iter().find(|(_, module)| *module == path) {
        return Some(format!("{theirs}.{kind}"));
    }
    let (number, part) = path.strip_prefix(names.layer)?.strip_prefix('.')?.split_once('.')?;
    let (theirs, _) = modules(names).into_iter().find(|(_, module)| *module == part)?;
    Some(format!("blk.{number}.{theirs}.{kind}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_go_both_ways() {
        for (family, ours, theirs) in [
            (Family::Llada, "model.transformer.ff_out.weight", "output.weight"),
            (Family::Llada, "model.transformer.blocks.31.ff_out.weight", "blk.31.ffn_down.weight"),
            (Family::Dream, "lm_head.weight", "output.weight"),
            (Family::Dream, "model.layers.7.self_attn.q_proj.bias", "blk.7.attn_q.bias"),
        ] {
            assert_eq!(in_file(family, ours).as_deref(), Some(theirs));
            assert_eq!(checkpoint(family, theirs).as_deref(), Some(ours));
        }
        assert_eq!(checkpoint(Family::Llada, "rope_freqs.weight"), None);
        assert_eq!(in_file(Family::Dream, "model.rotary.weight"), None);
    }
}
