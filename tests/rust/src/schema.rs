// SPDX-License-Identifier: GPL-2.0

//! Holds what the command prints for programs against its JSON Schema.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Mutex, OnceLock, PoisonError};

use serde_json::Value;

/// The schema that is published.
pub const SCHEMA: &str = include_str!("../../../tools/pagemigrate/schema/pagemigrate.schema.json");

/// Reads the schema, then one document a line, and says what is wrong with each. A field that the
/// schema does not name is allowed to readers, and a fault of ours.
const VALIDATOR: &str = r#"
import json, sys
from jsonschema import Draft202012Validator

def strict(part):
    if isinstance(part, list):
        return [strict(p) for p in part]
    if not isinstance(part, dict):
        return part
    part = {key: strict(value) for key, value in part.items()}
    if part.get("type") == "object":
        part["additionalProperties"] = False
    return part

def told(error):
    # Of the parts that a document can be, the one that it comes closest to.
    return "; ".join([error.message[:300]] + [
        f"{c.json_path}: {c.message[:300]}" for c in error.context])

schema = json.loads(sys.stdin.readline())
Draft202012Validator.check_schema(schema)
validator = Draft202012Validator(strict(schema))
for line in iter(sys.stdin.readline, ""):
    errors = [told(e) for e in validator.iter_errors(json.loads(line))]
    print(json.dumps(errors), flush=True)
"#;

struct Validator {
    // It ends when its input does.
    _child: Child,
    documents: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Validator {
    fn start() -> Self {
        let mut child = Command::new("python3")
            .args(["-c", VALIDATOR])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("python3 with python3-jsonschema: {e}"));
        let (documents, answers) = (child.stdin.take(), child.stdout.take());
        let mut validator = Validator {
            _child: child,
            documents: documents.unwrap(),
            answers: BufReader::new(answers.unwrap()),
        };
        let schema: Value = serde_json::from_str(SCHEMA).unwrap();
        writeln!(validator.documents, "{schema}").unwrap();
        validator
    }

    fn errors(&mut self, document: &Value) -> Vec<String> {
        writeln!(self.documents, "{document}").unwrap();
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|e| panic!("the validator has ended: {e}"))
    }
}

/// What is wrong with a document; nothing if it is as the schema says.
pub fn errors(document: &Value) -> Vec<String> {
    static VALIDATOR: OnceLock<Mutex<Validator>> = OnceLock::new();
    let validator = VALIDATOR.get_or_init(|| Mutex::new(Validator::start()));
    let mut validator = validator.lock().unwrap_or_else(PoisonError::into_inner);
    validator.errors(document)
}

/// Reads a document, which must be as the schema says.
#[track_caller]
pub fn parse(text: &str) -> Value {
    let document = serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"));
    let errors = errors(&document);
    assert!(errors.is_empty(), "{errors:#?}\n{document:#}");
    document
}
