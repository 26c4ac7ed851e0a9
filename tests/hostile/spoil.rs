//! Random damage to documents: a JSON tree's values, names and places, or a text's bytes.

use proptest::prelude::*;
use proptest::sample::{Index, select};
use serde_json::{Value, json};

/// One change of a JSON tree. Places are numbered in the order of the text.
#[derive(Debug, Clone)]
pub enum Change {
    /// Put a value in a place.
    Replace(Index, Value),
    /// Put a copy of one place in another.
    Copy(Index, Index),
    /// Take an entry of an object or an array away.
    Remove(Index),
    /// Rename an entry of an object, or add one of this name.
    Rename(Index, String, bool),
}

/// Numbers, texts and nests at which parsers break; `words` have a meaning in this kind of document.
pub fn values(words: &'static [&'static str]) -> impl Strategy<Value = Value> {
    let numbers = select(vec![
        json!(0),
        json!(1),
        json!(2),
        json!(3),
        json!(8),
        json!(-1),
        json!(0.5),
        json!(-0.0),
        json!(1.5),
        json!(1e-320),
        json!(1e308),
        json!(-1e308),
        json!(255),
        json!(1_u64 << 20),
        json!(1_u64 << 31),
        json!(1_u64 << 32),
        json!((1_u64 << 53) + 1),
        json!(1_u64 << 60),
        json!(i64::MIN),
        json!(i64::MAX),
        json!(u64::MAX),
    ]);
    let deep = (0..100).fold(json!(1), |inner, _| json!([inner]));
    let shapes = select(vec![
        json!(null),
        json!(true),
        json!(false),
        json!([]),
        json!({}),
        json!([[]]),
        json!([null]),
        json!({"a": 1}),
        json!(""),
        json!(" "),
        json!("a"),
        json!("\0"),
        json!("\u{FFFD}"),
        json!("é你😀"),
        json!("e\u{301}"),
        json!("(a+)+$"),
        json!("["),
        json!("x".repeat(3000)),
        deep,
    ]);
    let words = select(words).prop_map(|word| json!(word));
    let small = prop_oneof![(-2i64..40).prop_map(|n| json!(n)), "\\PC{0,6}".prop_map(Value::String)];
    let one = prop_oneof![3 => numbers, 3 => shapes, 4 => words, 2 => small];
    let some = proptest::collection::vec(one.clone(), 0..5).prop_map(Value::Array);
    prop_oneof![8 => one, 1 => some]
}

/// A few changes.
pub fn changes(words: &'static [&'static str]) -> impl Strategy<Value = Vec<Change>> {
    let (at, from) = (any::<Index>, any::<Index>);
    let name = prop_oneof![select(words).prop_map(str::to_owned), "\\PC{0,4}"];
    let one = prop_oneof![
        6 => (at(), values(words)).prop_map(|(at, value)| Change::Replace(at, value)),
        2 => (at(), from()).prop_map(|(at, from)| Change::Copy(at, from)),
        2 => at().prop_map(Change::Remove),
        2 => (at(), name, any::<bool>()).prop_map(|(at, name, add)| Change::Rename(at, name, add)),
    ];
    proptest::collection::vec(one, 0..5)
}

/// Change a tree.
pub fn spoil(tree: &mut Value, changes: &[Change]) {
    for change in changes {
        let places = count(tree);
        match change {
            Change::Replace(at, value) => *place(tree, at.index(places)) = value.clone(),
            Change::Copy(at, from) => {
                let value = place(tree, from.index(places)).clone();
                *place(tree, at.index(places)) = value;
            }
            Change::Remove(at) => match place(tree, at.index(places)) {
                Value::Array(list) if !list.is_empty() => drop(list.remove(at.index(list.len()))),
                Value::Object(map) => {
                    let name = map.keys().nth(at.index(map.len().max(1))).cloned();
                    name.and_then(|name| map.remove(&name));
                }
                _ => {}
            },
            Change::Rename(at, to, add) => {
                if let Value::Object(map) = place(tree, at.index(places)) {
                    let name = map.keys().nth(at.index(map.len().max(1))).cloned();
                    let value =
                        name.and_then(|name| if *add { map.get(&name).cloned() } else { map.remove(&name) });
                    map.insert(to.clone(), value.unwrap_or_default());
                }
            }
        }
    }
}

fn count(tree: &Value) -> usize {
    1 + match tree {
        Value::Array(list) => list.iter().map(count).sum(),
        Value::Object(map) => map.values().map(count).sum::<usize>(),
        _ => 0,
    }
}

fn place(tree: &mut Value, number: usize) -> &mut Value {
    if number == 0 {
        return tree;
    }
    let mut before = 1;
    let children: Vec<&mut Value> = match tree {
        Value::Array(list) => list.iter_mut().collect(),
        Value::Object(map) => map.values_mut().collect(),
        _ => Vec::new(),
    };
    for child in children {
        let places = count(child);
        if number < before + places {
            return place(child, number - before);
        }
        before += places;
    }
    unreachable!("there are {before} places, number {number} is none")
}

/// One change of a text's bytes.
#[derive(Debug, Clone)]
pub enum Cut {
    /// Nothing behind this place.
    End(Index),
    /// Put bytes here, over what is there or between.
    Bytes(Index, Vec<u8>, bool),
    /// Take some bytes away.
    Without(Index, usize),
}

/// Mostly none, else a few changes of bytes.
pub fn cuts() -> impl Strategy<Value = Vec<Cut>> {
    let at = any::<Index>;
    let bytes = proptest::collection::vec(any::<u8>(), 1..9);
    let one = prop_oneof![
        1 => at().prop_map(Cut::End),
        3 => (at(), bytes, any::<bool>()).prop_map(|(at, bytes, over)| Cut::Bytes(at, bytes, over)),
        1 => (at(), 1usize..40).prop_map(|(at, count)| Cut::Without(at, count)),
    ];
    prop_oneof![3 => Just(Vec::new()), 1 => proptest::collection::vec(one, 1..4)]
}

/// Change a text's bytes.
pub fn cut(bytes: &mut Vec<u8>, cuts: &[Cut]) {
    for cut in cuts {
        let length = bytes.len();
        match cut {
            Cut::End(at) => bytes.truncate(at.index(length + 1)),
            Cut::Bytes(at, new, over) => {
                let start = at.index(length + 1);
                let end = if *over { length.min(start + new.len()) } else { start };
                bytes.splice(start..end, new.iter().copied());
            }
            Cut::Without(at, count) => {
                let start = at.index(length + 1);
                bytes.drain(start..length.min(start + count));
            }
        }
    }
}
