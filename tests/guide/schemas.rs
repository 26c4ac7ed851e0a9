//! JSON schemas.

use evotoken::guide::Rule;

use crate::{check, reason, schema};

#[test]
fn scalars_are_json() {
    check(
        &schema(r#"{"type": "string"}"#),
        &[r#""""#, r#""aé你""#, r#""\"\\\n""#],
        &["", "a", "\"a", "\"\n\"", r#""\x""#],
    );
    check(
        &schema(r#"{"type": "string", "minLength": 2, "maxLength": 3}"#),
        &[r#""你\n""#, r#""abc""#],
        &[r#""a""#, r#""abcd""#],
    );
    check(&schema(r#"{"type": "integer"}"#), &["0", "-7", "120"], &["", "-", "01", "1.0", "1e3", "+1"]);
    check(
        &schema(r#"{"type": "number"}"#),
        &["0", "-7.25", "1e9", "0.5E-10"],
        &[".5", "1.", "1e", "1e999", "NaN"],
    );
    check(&schema(r#"{"type": "number", "minimum": 0}"#), &["0.5"], &["-0.5"]);
    check(&schema(r#"{"type": ["boolean", "null"]}"#), &["true", "false", "null"], &["True", "0"]);
    check(
        &schema(r#"{"enum": ["a\"b", 1, null, [1, {"x": 2}]]}"#),
        &[r#""a\"b""#, "1", "null", r#"[1,{"x":2}]"#],
        &["a", "2"],
    );
    check(&schema(r#"{"type": "number", "enum": ["a", 1, 1.5]}"#), &["1", "1.5"], &["\"a\""]);
    check(&schema(r#"{"const": "é"}"#), &["\"é\""], &["\"e\"", "é"]);
}

#[test]
fn integers_keep_to_their_bounds() {
    let cases: [(i64, i64); 9] =
        [(0, 0), (0, 255), (7, 1203), (-5, 5), (-120, -7), (100, 999), (99, 100), (-1, 10), (1999, 2004)];
    for (min, max) in cases {
        let within: Vec<String> = (min..=max).map(|n| n.to_string()).collect();
        let beside = [min - 1, max + 1, min - 10, max + 10, max * 10 + 1, -max - 1].map(|n| n.to_string());
        let beside: Vec<&str> =
            beside.iter().filter(|text| !within.contains(text)).map(String::as_str).collect();
        let within: Vec<&str> = within.iter().map(String::as_str).collect();
        check(
            &schema(&format!(r#"{{"type": "integer", "minimum": {min}, "maximum": {max}}}"#)),
            &within,
            &beside,
        );
        let (below, above) = (min - 1, max + 1);
        let open =
            format!(r#"{{"type": "integer", "exclusiveMinimum": {below}, "exclusiveMaximum": {above}.0}}"#);
        check(&schema(&open), &within, &beside);
    }
    check(
        &schema(r#"{"type": "integer", "minimum": 18}"#),
        &["18", "19", "99", "100", "123456789012345678901"],
        &["17", "-18", "9"],
    );
    check(
        &schema(r#"{"type": "integer", "maximum": -3}"#),
        &["-3", "-10", "-99999999999999999999999"],
        &["-2", "0", "3"],
    );
    let widest = format!(r#"{{"type": "integer", "minimum": {}, "maximum": {}}}"#, i64::MIN, i64::MAX);
    check(&schema(&widest), &["-9223372036854775808", "9223372036854775807", "0"], &["9223372036854775808"]);
    assert_eq!(reason(&schema(r#"{"type": "integer", "minimum": 3, "maximum": 2}"#)), "matches no text");
}

#[test]
fn strings_keep_to_their_pattern_or_format() {
    check(&schema(r#"{"type": "string", "pattern": "^[a-c]+$"}"#), &["\"abc\""], &["\"\"", "\"abd\""]);
    check(&schema(r#"{"pattern": "b+"}"#), &["\"abbc\"", "\"b\""], &["\"ac\"", "\"\"b\""]);
    check(
        &schema(r#"{"pattern": "^a.|b$"}"#),
        &["\"aé\"", "\"axyz\"", "\"b\""],
        &["\"a\"", "\"cay\"", "\"bc\""],
    );
    check(
        &schema(r#"{"type": "string", "format": "date"}"#),
        &["\"2024-02-28\"", "\"1999-12-31\""],
        &["\"2024-02-30\"", "\"2024-06-31\"", "\"2024-13-01\""],
    );
    check(
        &schema(r#"{"format": "date-time"}"#),
        &["\"2024-02-28T23:59:59Z\"", "\"2024-02-28T00:00:00.5+01:00\""],
        &["\"2024-02-28\"", "\"2024-02-28T24:00:00Z\""],
    );
    check(&schema(r#"{"format": "ipv4"}"#), &["\"127.0.0.1\""], &["\"256.0.0.1\"", "\"1.2.3\""]);
    check(&schema(r#"{"format": "email"}"#), &["\"a.b@c-d.org\""], &["\"a@b\"", "\"a@@b.org\""]);
    check(&schema(r#"{"format": "uuid"}"#), &["\"12345678-90ab-cdef-1234-567890abcdef\""], &["\"1\""]);
}

#[test]
fn objects_have_their_properties_in_the_schema_s_order() {
    let both = r#"{"type": "object", "properties": {"b": {"type": "integer"}, "a": {"type": "boolean"}}, "required": ["a", "b"]}"#;
    check(
        &schema(both),
        &[r#"{"b":1,"a":true}"#, r#"{"b": 1, "a": false}"#],
        &["{}", r#"{"a":true,"b":1}"#, r#"{"b":1}"#, r#"{"b":1,"a":true,"c":2}"#, r#"{"b":  1,"a":true}"#],
    );
    let some = r#"{"properties": {"a": {"const": 1}, "b": {"const": 2}, "c": {"const": 3}, "d": {"const": 4}}, "required": ["b"]}"#;
    check(
        &schema(some),
        &[r#"{"b":2}"#, r#"{"a":1,"b":2,"d":4}"#, r#"{"a":1,"b":2,"c":3,"d":4}"#],
        &["{}", r#"{"a":1}"#, r#"{"a":1,}"#, r#"{"b":2,"a":1}"#, r#"{"b":2 }"#],
    );
    let none =
        r#"{"type": "object", "properties": {"a": {"const": 1}, "b": {"const": 2}, "c": {"const": 3}}}"#;
    check(
        &schema(none),
        &["{}", r#"{"a":1}"#, r#"{"a":1,"c":3}"#, r#"{"b":2,"c":3}"#, r#"{"c":3}"#],
        &["{,}", r#"{"a":1,}"#, r#"{,"c":3}"#, r#"{"a":1"c":3}"#],
    );
    let quoted =
        r#"{"properties": {"a\"b": {"const": 1}}, "required": ["a\"b"], "additionalProperties": true}"#;
    check(&schema(quoted), &[r#"{"a\"b":1}"#], &["{}"]);
    let free = r#"{"type": "object", "additionalProperties": {"type": "integer"}, "maxProperties": 2}"#;
    check(
        &schema(free),
        &["{}", r#"{"x":1}"#, r#"{"x":1,"y":2}"#],
        &[r#"{"x":"1"}"#, r#"{"x":1,"y":2,"z":3}"#],
    );
    check(&schema(r#"{"type": "object", "required": ["x"]}"#), &[r#"{"x":[1]}"#, r#"{"x":null}"#], &["{}"]);
    check(&schema(r#"{"type": "object", "additionalProperties": false}"#), &["{}"], &[r#"{"x":1}"#]);
}

#[test]
fn arrays_keep_to_their_items_and_lengths() {
    let some = r#"{"type": "array", "items": {"type": "integer"}, "minItems": 1, "maxItems": 3}"#;
    check(&schema(some), &["[1]", "[1,2]", "[1, 2, 3]"], &["[]", "[1,2,3,4]", "[1,]", "[,1]", "[\"a\"]"]);
    check(&schema(r#"{"items": {"const": 1}}"#), &["[]", "[1,1,1,1,1]"], &["[2]"]);
    check(&schema(r#"{"type": "array", "maxItems": 0}"#), &["[]"], &["[1]"]);
    check(&schema(r#"{"type": "array"}"#), &["[]", r#"[1,"a",[2],{"x":null}]"#], &["[1"]);
    let pair = r#"{"type": "array", "prefixItems": [{"type": "integer"}, {"type": "string"}], "minItems": 2, "maxItems": 2}"#;
    check(&schema(pair), &[r#"[1,"a"]"#], &["[1]", r#"["a",1]"#]);
}

#[test]
fn schemas_are_combined_and_referred_to() {
    let any = r#"{"anyOf": [{"type": "integer"}, {"type": "null"}]}"#;
    check(&schema(any), &["1", "null"], &["true"]);
    let shared =
        r##"{"$defs": {"a/b": {"enum": ["x"]}}, "type": "array", "items": {"$ref": "#/$defs/a~1b"}}"##;
    check(&schema(shared), &[r#"["x","x"]"#], &[r#"["y"]"#]);
    let list = r##"{"$ref": "#/$defs/l", "$defs": {"l": {"type": "object", "required": ["v", "next"], "properties":
        {"v": {"const": 1}, "next": {"anyOf": [{"$ref": "#/$defs/l"}, {"type": "null"}]}}}}}"##;
    check(
        &schema(list),
        &[r#"{"v":1,"next":null}"#, r#"{"v":1,"next":{"v":1,"next":{"v":1,"next":null}}}"#],
        // The fourth within itself is one too many.
        &[r#"{"v":1}"#, r#"{"v":1,"next":{"v":1,"next":{"v":1,"next":{"v":1,"next":null}}}}"#],
    );
    check(
        &schema(r#"{"allOf": [{"const": 1}], "title": "One", "description": "d", "default": 1}"#),
        &["1"],
        &["2"],
    );
    check(&schema("true"), &["1", r#"{"a":[1]}"#, "[[1]]"], &["{", "a"]);
}

#[test]
fn any_object_is_an_object() {
    check(
        &Rule::JsonObject,
        &["{}", r#"{"a": {"b": [1, {"c": null}]}, "d": "e"}"#],
        &["", "[]", "1", "{a:1}", r#"{"a":1,}"#],
    );
}

#[test]
fn what_a_schema_cannot_say_here_is_named_with_its_place() {
    for (text, part) in [
        (r#"{"type": "integer", "multipleOf": 3}"#, "at the top: the keyword `multipleOf` is not supported"),
        (r#"{"properties": {"a": {"not": {}}}}"#, "at properties.a: the keyword `not`"),
        (
            r#"{"type": "array", "items": {"type": "string", "uniqueItems": true}}"#,
            "at items: the keyword `uniqueItems`",
        ),
        (r#"{"type": "text"}"#, "\"text\" is no type"),
        (r#"{"$ref": "https://localhost/x"}"#, "leads nowhere"),
        (r##"{"$ref": "#/$defs/x"}"##, "leads nowhere"),
        (r##"{"$ref": "#"}"##, "matches no text"),
        (
            r#"{"anyOf": [{"type": "string"}, {"pattern": "("}]}"#,
            "at anyOf[1]: the pattern \"(\" is no regular",
        ),
        (r#"{"pattern": "a\"b"}"#, "a quote, a backslash or a control character"),
        (r#"{"pattern": "a\\bb"}"#, "looking around"),
        (r#"{"pattern": "a", "maxLength": 3}"#, "not supported beside"),
        (r#"{"format": "hostname"}"#, "the format \"hostname\" is not supported, but date, time"),
        (r#"{"type": "number", "maximum": 1}"#, "`maximum` is only supported for integers"),
        (r#"{"type": "integer", "minimum": 0.5}"#, "`minimum` cannot be 0.5"),
        (r#"{"type": "string", "minLength": -1}"#, "`minLength` cannot be -1"),
        (r#"{"allOf": [{}, {}]}"#, "`allOf` is only supported with one schema"),
        (r#"{"enum": 3}"#, "`enum` cannot be 3"),
        (r#"{"enum": []}"#, "matches no text"),
        (r#"{"properties": []}"#, "`properties` cannot be []"),
        (r#"{"required": ["a", "a"]}"#, "`required` cannot be"),
        (r#"{"required": "a"}"#, "`required` cannot be"),
        (r#"{"properties": {"a": 3}}"#, "a schema is an object, found 3"),
        (r#"{"prefixItems": [{}], "minItems": 2}"#, "as many items as `prefixItems`"),
        (r#"{"anyOf": [{}], "type": "string"}"#, "`type` is not supported beside `anyOf`"),
        (r##"{"$ref": "#/x", "minimum": 1}"##, "`minimum` is not supported beside `$ref`"),
        (r#"{"const": 1, "type": "string"}"#, "matches no text"),
        (r#"{"minProperties": 2}"#, "`minProperties` above 1"),
        ("[]", "a schema is an object, found []"),
    ] {
        let message = reason(&schema(text));
        assert!(message.contains(part), "{text}: {message}");
    }
}
