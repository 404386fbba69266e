use super::*;

/// `struct outer { int; union { struct { u8 a; u8 b:4 }; }; }` by hand.
fn sample() -> Vec<u8> {
    let strings = b"\0int\0outer\0inner_a\0inner_b\0first\0";
    let at = |name: &str| {
        strings.windows(name.len()).position(|window| window == name.as_bytes()).unwrap() as u32
    };
    let info = |kind: u32, members: u32, flag: u32| flag << 31 | kind << 24 | members;
    let types: Vec<u32> = [
        vec![at("int"), info(kind::INT, 0, 0), 4, 32],
        // 2: struct with a bit field
        vec![0, info(kind::STRUCT, 2, 1), 4, at("inner_a"), 1, 8, at("inner_b"), 1, 4 << 24 | 12],
        // 3: union of it
        vec![0, info(kind::UNION, 1, 0), 4, 0, 2, 0],
        // 4
        vec![at("outer"), info(kind::STRUCT, 2, 0), 8, at("first"), 1, 0, 0, 3, 32],
    ]
    .concat();
    let types: Vec<u8> = types.into_iter().flat_map(u32::to_ne_bytes).collect();
    let mut bytes = MAGIC.to_ne_bytes().to_vec();
    bytes.extend([1, 0]);
    for word in [24, 0, types.len() as u32, types.len() as u32, strings.len() as u32] {
        bytes.extend(word.to_ne_bytes());
    }
    bytes.extend(types);
    bytes.extend(strings);
    bytes
}

#[test]
fn fields_are_found_through_anonymous_members() {
    let btf = Btf::parse(sample()).unwrap();
    assert_eq!(btf.offset_of("outer", "first").unwrap(), 0);
    assert_eq!(btf.offset_of("outer", "inner_a").unwrap(), 5);
}

#[test]
fn what_is_not_there_is_an_error() {
    let btf = Btf::parse(sample()).unwrap();
    for (structure, field) in [("outer", "second"), ("other", "first"), ("int", "first")] {
        assert!(btf.offset_of(structure, field).is_err(), "{structure}.{field}");
    }
    assert!(btf.offset_of("outer", "inner_b").is_err(), "not at a byte");
}

#[test]
fn cut_off_information_is_an_error() {
    let sample = sample();
    assert!((0..sample.len()).all(|length| Btf::parse(sample[..length].to_vec()).is_err()));
}

#[test]
fn this_kernel_has_the_fields_that_programs_ask_for() {
    let Ok(btf) = Btf::of_this_kernel() else {
        println!("skipped: this kernel has no {PATH}");
        return;
    };
    for (_, structure, field) in super::super::sockmap::FIELDS {
        assert!(btf.offset_of(structure, field).unwrap() > 0, "{structure}.{field}");
    }
}
