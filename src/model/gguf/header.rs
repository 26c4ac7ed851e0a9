//! The head of a GGUF file: metadata, and where which tensor lies. An own reader, because the file is not to be believed:
//! every length is held against the bytes that are there, and what is wrong is said with the tensor's name.

use std::collections::BTreeMap;

/// A value of the metadata. What this server has no use for is passed over.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// A whole number of any width.
    Whole(i128),
    /// A number with a fraction; of 32 bits, as the decimal number that it stands for (0.00001, not 0.0000099999997).
    Fraction(f64),
    /// Yes or no.
    Flag(bool),
    /// A text.
    Text(String),
    /// A list of texts.
    Texts(Vec<String>),
    /// A list of whole numbers of 32 bits.
    Wholes(Vec<i64>),
    /// A list of something else.
    Other,
}

/// What is said of one tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Lengths, the innermost first (a matrix of `[out, in]` has rows of `in` numbers).
    pub lengths: Vec<u64>,
    /// The number of its format.
    pub format: u32,
    /// Where its bytes begin, from [`Header::start`] on.
    pub place: u64,
}

/// The head of a GGUF file.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Header {
    /// Metadata by key.
    pub metadata: BTreeMap<String, Value>,
    /// Tensors by their names in the file.
    pub tensors: BTreeMap<String, Entry>,
    /// Where the tensors' bytes begin.
    pub start: usize,
}

/// What is wrong with a file; if it is about a tensor, with its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// The tensor.
    pub tensor: Option<String>,
    /// A sentence.
    pub reason: String,
}

impl Damage {
    fn new(reason: impl Into<String>) -> Self {
        Self { tensor: None, reason: reason.into() }
    }

    fn of(tensor: &str, reason: impl Into<String>) -> Self {
        Self { tensor: Some(tensor.to_owned()), reason: reason.into() }
    }
}

/// Lengths of a tensor, at most; ggml has no more.
const MOST_LENGTHS: u32 = 4;
/// Where tensors begin, unless `general.alignment` says otherwise.
const ALIGNMENT: usize = 32;

impl Header {
    /// Read the head of `file`, which is all of it.
    ///
    /// # Errors
    /// It is no GGUF file, ends too early, or a tensor cannot be as it claims.
    pub fn parse(file: &[u8]) -> Result<Self, Damage> {
        let mut reader = Reader { file, at: 0 };
        if reader.take(4).ok() != Some(b"GGUF") {
            return Err(Damage::new("not a GGUF file: it does not begin with GGUF"));
        }
        match reader.u32()? {
            2 | 3 => {}
            other => {
                return Err(Damage::new(format!("version {other} of GGUF is not supported (2 and 3 are)")));
            }
        }
        let (tensors, keys) = (reader.u64()?, reader.u64()?);
        let mut metadata = BTreeMap::new();
        for _ in 0..keys {
            let key = reader.text()?;
            let kind = reader.u32()?;
            let value = reader.value(kind, &key)?;
            if metadata.insert(key.clone(), value).is_some() {
                return Err(Damage::new(format!("the key {key} stands twice")));
            }
        }
        let mut found = BTreeMap::new();
        for _ in 0..tensors {
            let (name, entry) = reader.tensor()?;
            if found.insert(name.clone(), entry).is_some() {
                return Err(Damage::of(&name, "stands twice"));
            }
        }
        let start = reader.at.next_multiple_of(alignment(&metadata)?);
        Ok(Self { metadata, tensors: found, start })
    }
}

fn alignment(metadata: &BTreeMap<String, Value>) -> Result<usize, Damage> {
    let Some(value) = metadata.get("general.alignment") else { return Ok(ALIGNMENT) };
    let number = match value {
        Value::Whole(number) => u32::try_from(*number).ok().filter(|number| number.is_power_of_two()),
        _ => None,
    };
    let number =
        number.ok_or_else(|| Damage::new(format!("general.alignment is {value:?}, which is no power of 2")));
    Ok(number? as usize)
}

/// More is said to be there than is.
fn cut(wanted: u64, left: usize) -> Damage {
    Damage::new(format!("the file ends within its head: {wanted} bytes are wanted where {left} are left"))
}

/// A place in the file.
struct Reader<'a> {
    file: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], Damage> {
        let rest = &self.file[self.at..];
        let bytes = rest.get(..count).ok_or_else(|| cut(count as u64, rest.len()))?;
        self.at += count;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Damage> {
        let bytes = self.take(N)?;
        Ok(bytes.try_into().expect("as many bytes were taken"))
    }

    fn u32(&mut self) -> Result<u32, Damage> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, Damage> {
        self.array().map(u64::from_le_bytes)
    }

    /// A number of bytes or of things that take at least one.
    fn length(&mut self) -> Result<usize, Damage> {
        let length = self.u64()?;
        let left = self.file.len() - self.at;
        let found = usize::try_from(length).ok().filter(|length| *length <= left);
        found.ok_or_else(|| cut(length, left))
    }

    fn text(&mut self) -> Result<String, Damage> {
        let length = self.length()?;
        // Some writers cut a text within a character.
        Ok(String::from_utf8_lossy(self.take(length)?).into_owned())
    }

    fn value(&mut self, kind: u32, key: &str) -> Result<Value, Damage> {
        Ok(match kind {
            0 => Value::Whole(self.array().map(u8::from_le_bytes)?.into()),
            1 => Value::Whole(self.array().map(i8::from_le_bytes)?.into()),
            2 => Value::Whole(self.array().map(u16::from_le_bytes)?.into()),
            3 => Value::Whole(self.array().map(i16::from_le_bytes)?.into()),
            4 => Value::Whole(self.u32()?.into()),
            5 => Value::Whole(self.array().map(i32::from_le_bytes)?.into()),
            // By way of the shortest decimal number: 1e-5 of a configuration must be 1e-5 again.
            6 => {
                let number = self.array().map(f32::from_le_bytes)?;
                Value::Fraction(number.to_string().parse().unwrap_or(f64::NAN))
            }
            7 => Value::Flag(self.take(1)? != [0]),
            8 => Value::Text(self.text()?),
            9 => {
                let (kind, length) = (self.u32()?, self.length()?);
                self.list(kind, length, key)?
            }
            10 => Value::Whole(self.u64()?.into()),
            11 => Value::Whole(self.array().map(i64::from_le_bytes)?.into()),
            12 => Value::Fraction(self.array().map(f64::from_le_bytes)?),
            other => return Err(Damage::new(format!("{key}: type {other} of values is not known"))),
        })
    }

    fn list(&mut self, kind: u32, length: usize, key: &str) -> Result<Value, Damage> {
        // What is read grows as it is read: the length that is claimed reserves nothing.
        match kind {
            8 => (0..length).map(|_| self.text()).collect::<Result<_, _>>().map(Value::Texts),
            4 => (0..length).map(|_| self.u32().map(i64::from)).collect::<Result<_, _>>().map(Value::Wholes),
            5 => {
                let number = |this: &mut Self| this.array().map(i32::from_le_bytes).map(i64::from);
                (0..length).map(|_| number(self)).collect::<Result<_, _>>().map(Value::Wholes)
            }
            0 | 1 | 7 => self.take(length).map(|_| Value::Other),
            2 | 3 => self.skip(length, 2),
            6 => self.skip(length, 4),
            10..=12 => self.skip(length, 8),
            other => Err(Damage::new(format!("{key}: lists of type {other} are not known"))),
        }
    }

    fn skip(&mut self, length: usize, width: usize) -> Result<Value, Damage> {
        self.take(length.saturating_mul(width)).map(|_| Value::Other)
    }

    /// Name and tensor.
    fn tensor(&mut self) -> Result<(String, Entry), Damage> {
        let name = self.text()?;
        let lengths = self.u32()?;
        if lengths > MOST_LENGTHS {
            let reason = format!("has {lengths} dimensions, at most {MOST_LENGTHS} are supported");
            return Err(Damage::of(&name, reason));
        }
        let lengths = (0..lengths).map(|_| self.u64()).collect::<Result<_, _>>()?;
        Ok((name, Entry { lengths, format: self.u32()?, place: self.u64()? }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Vec<u8> {
        [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
    }

    /// A file of one key and one f32 matrix of `[2, 3]`.
    fn file(alignment: u32) -> Vec<u8> {
        let mut file =
            [b"GGUF".as_slice(), &3_u32.to_le_bytes(), &1_u64.to_le_bytes(), &1_u64.to_le_bytes()].concat();
        file.extend(
            [text("general.alignment"), 4_u32.to_le_bytes().to_vec(), alignment.to_le_bytes().to_vec()]
                .concat(),
        );
        file.extend(text("a.weight"));
        file.extend([2_u32.to_le_bytes(), 3_u32.to_le_bytes(), [0; 4], 2_u32.to_le_bytes(), [0; 4]].concat());
        file.extend([&0_u32.to_le_bytes(), [0; 8].as_slice()].concat());
        file.resize(file.len().next_multiple_of(alignment.max(1) as usize) + 24, 0);
        file
    }

    #[test]
    fn tensors_begin_at_the_next_place_that_is_aligned() {
        for (alignment, start) in [(32, 128), (64, 128), (256, 256)] {
            let header = Header::parse(&file(alignment)).unwrap();
            assert_eq!(
                (header.tensors["a.weight"].lengths.as_slice(), header.start),
                ([3, 2].as_slice(), start)
            );
        }
    }

    #[test]
    fn every_file_that_ends_within_its_head_is_refused() {
        let whole = file(32);
        let head = whole.len() - 24 - 32;
        for end in 0..head {
            assert!(Header::parse(&whole[..end]).is_err(), "{end} of {} bytes", whole.len());
        }
    }

    #[test]
    fn an_alignment_that_is_none_is_refused() {
        for alignment in [0, 3] {
            assert!(Header::parse(&file(alignment)).unwrap_err().reason.contains("general.alignment"));
        }
    }
}
