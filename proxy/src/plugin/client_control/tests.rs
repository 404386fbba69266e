use super::super::trial::{Seen, Trial, refused};

fn trial(max: u64) -> Trial {
    Trial::new(&format!("{{ client-control: {{ max_body_size: {max} }} }}"), "")
}

#[test]
fn a_length_that_says_too_much_is_refused() {
    let too_large = Some(413);
    for (max, length, status) in [
        (10, "10", None),
        (10, "11", too_large),
        (10, "9223372036854775807", too_large),
        (0, "9223372036854775807", None),
        (10, "0", None),
    ] {
        let seen = trial(max).ask("POST /", &format!("content-length: {length}\r\n"));
        assert_eq!(seen.status(), status, "{max} {length}");
    }
    let seen = trial(10).ask("POST /", "content-length: 11\r\n");
    let body = "{\"error_msg\":\"413 Payload Too Large\"}".to_owned();
    assert_eq!(seen, Seen::Answered { status: 413, fields: String::new(), body });
}

#[test]
fn what_is_no_size_is_refused() {
    refused("client-control", "max_body_size: -1", "a whole number");
    refused("client-control", "max_body_size: 1MiB", "a whole number");
}
