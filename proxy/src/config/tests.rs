use std::env::VarError;

use super::*;

const QUICKSTART: &str = include_str!("../../../examples/quickstart.yaml");

fn lookup(name: &str) -> Result<String, VarError> {
    match name {
        "PORT" => Ok("9080".to_owned()),
        "WORKERS" => Ok("3".to_owned()),
        "KEY" => Ok("12345".to_owned()),
        "SECRET" => Ok("s3cret".to_owned()),
        _ => Err(VarError::NotPresent),
    }
}

fn parse(text: &str) -> Result<Config, ConfigErrors> {
    Config::parse_with(text, "t.yaml", &lookup)
}

#[test]
fn the_environment_fills_in_any_scalar() {
    let config = parse(
        "workers: ${{WORKERS}}\n\
         listeners: [{ name: web, address: \"127.0.0.1:${{PORT}}\" }]\n\
         drain: { timeout: \"${{TIMEOUT:=7s}}\" }\n\
         consumers:\n  - username: alice\n    plugins:\n      key-auth:\n        key: ${{KEY}}\n",
    )
    .unwrap();
    assert_eq!(config.workers.count.map(usize::from), Some(3));
    assert_eq!(config.listeners[0].address.port(), 9080);
    assert_eq!(config.drain.timeout, Duration::from_secs(7));
    let [credential] = &*config.consumers[0].credentials else { panic!("one credential") };
    assert_eq!(&*credential.id, b"12345", "a string, as asked for");
}

#[test]
fn what_the_environment_says_is_not_repeated() {
    let errors = parse(
        "workers: ${{SECRET}}\n\
         listeners: [{ name: \"a ${{SECRET}}\", address: \"${{SECRET}}\" }]\n\
         kernel: { mode: \"${{SECRET}}\" }\n\
         log: { access: { target: \"${{MISSING}}\" } }\n",
    )
    .unwrap_err();
    let text = errors.to_string();
    assert!(!text.contains("s3cret"), "{text}");
    assert_eq!(errors.0.list.len(), 5, "one for each: {text}");
    assert!(text.contains("4:26: log.access.target: environment variable `MISSING`"), "{text}");
}

/// A small generator; the same sequence in each run.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % n as u64) as usize
    }
}

/// The fuzz target `config` does this for hours; here is what fits into a test.
#[test]
fn no_damage_to_a_file_makes_the_reader_panic() {
    const PIECES: [&str; 20] = [
        "{", "}", "[", "]", ":", ": ", "- ", "&a ", "*a", "!!x ", "\"", "'", "|\n", "---\n", "\t",
        "${{", "}}", "\n", "<<: ", "\u{fffd}",
    ];
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for _ in 0..2000 {
        let mut chars: Vec<char> = QUICKSTART.chars().collect();
        for _ in 0..=random.below(4) {
            let at = random.below(chars.len());
            let end = (at + random.below(8)).min(chars.len());
            let piece = PIECES[random.below(PIECES.len())];
            chars.splice(at..end, piece.chars());
        }
        let text: String = chars.into_iter().collect();
        if let Err(errors) = parse(&text) {
            assert!(!errors.0.list.is_empty(), "refused without a reason:\n{text}");
            assert!(errors.0.list.is_sorted(), "{errors}\n{text}");
            assert!(!errors.to_string().contains("alice-secret"), "{errors}\n{text}");
        }
    }
}
