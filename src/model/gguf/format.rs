//! Numbers that GGUF files give to the formats of tensors.

use super::super::stored::Format;

/// Formats that can be read.
const KNOWN: [(u32, Format); 11] = [
    (0, Format::F32),
    (1, Format::F16),
    (30, Format::Bf16),
    (2, Format::Q4_0),
    (3, Format::Q4_1),
    (6, Format::Q5_0),
    (7, Format::Q5_1),
    (8, Format::Q8_0),
    (12, Format::Q4K),
    (13, Format::Q5K),
    (14, Format::Q6K),
];

/// Names of others, for messages.
const OTHERS: [(u32, &str); 24] = [
    (9, "Q8_1"),
    (10, "Q2_K"),
    (11, "Q3_K"),
    (16, "IQ2_XXS"),
    (17, "IQ2_XS"),
    (18, "IQ3_XXS"),
    (19, "IQ1_S"),
    (20, "IQ4_NL"),
    (21, "IQ3_S"),
    (22, "IQ2_S"),
    (23, "IQ4_XS"),
    (24, "I8"),
    (25, "I16"),
    (26, "I32"),
    (27, "I64"),
    (28, "F64"),
    (29, "IQ1_M"),
    (31, "Q4_0_4_4"),
    (32, "Q4_0_4_8"),
    (33, "Q4_0_8_8"),
    (34, "TQ1_0"),
    (35, "TQ2_0"),
    (39, "MXFP4"),
    (40, "NVFP4"),
];

/// The format of this number.
///
/// # Errors
/// It is not known or cannot be read; the text says which.
pub(super) fn format(number: u32) -> Result<Format, String> {
    if let Some((_, format)) = KNOWN.iter().find(|(known, _)| *known == number) {
        return Ok(*format);
    }
    let name = OTHERS.iter().find(|(other, _)| *other == number).map(|(_, name)| *name);
    let known: Vec<&str> = KNOWN.iter().map(|(_, format)| format.name()).collect();
    let (name, known) = (name.map_or_else(|| number.to_string(), str::to_owned), known.join(", "));
    Err(format!("format {name} is not supported ({known} are)"))
}
