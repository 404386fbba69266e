use super::*;

#[test]
fn the_end_of_a_long_log_is_kept() {
    let check = |text: &str, lines_max, expected| assert_eq!(tail(text, lines_max), expected);
    check("", 2, "");
    check("\n\n", 2, "");
    check("a", 2, "a");
    check("a\nb\n", 2, "a\nb");
    check("a\nb\nc\n\n", 2, "b\nc");
    check("a\nb\nc", 3, "a\nb\nc");
    check("a\nb\nc", 1, "c");
}

#[test]
fn an_old_kernel_is_named() {
    for old in [KernelVersion::new(4, 19, 0), KernelVersion::new(6, 5, 99)] {
        let error = check_version(old).unwrap_err().to_string();
        assert!(error.contains("older than 6.6"), "{error}");
    }
    for new in [KernelVersion::new(6, 6, 0), KernelVersion::new(7, 0, 1)] {
        check_version(new).unwrap();
    }
}
