use super::*;

/// By hand: `struct outer { int; union { struct { u8 a; u8 b:4 }; }; }`,
/// `typedef struct outer again; struct whole { int; again part; }; enum letters { A = 7 };`
fn sample() -> Vec<u8> {
    let strings = b"\0int\0outer\0inner_a\0inner_b\0first\0again\0whole\0part\0letters\0A\0";
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
        // 5
        vec![at("again"), info(kind::TYPEDEF, 0, 0), 4],
        vec![at("whole"), info(kind::STRUCT, 2, 0), 12, at("first"), 1, 0, at("part"), 5, 32],
        vec![at("letters"), info(kind::ENUM, 1, 0), 4, at("A\0"), 7],
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
    assert_eq!(btf.offset_of("whole", "part.inner_a").unwrap(), 9);
}

#[test]
fn constants_are_found() {
    let btf = Btf::parse(sample()).unwrap();
    assert_eq!(btf.constant("letters", "A").unwrap(), 7);
    assert!(btf.constant("letters", "B").is_err());
    assert!(btf.constant("outer", "A").is_err());
}

#[test]
fn what_is_not_there_is_an_error() {
    let btf = Btf::parse(sample()).unwrap();
    for (structure, field) in
        [("outer", "second"), ("other", "first"), ("int", "first"), ("whole", "first.inner_a")]
    {
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
    let fields = [&super::super::sockets::FIELDS[..], &super::super::same_host::FIELDS[..]];
    for (_, structure, field) in fields.concat() {
        btf.offset_of(structure, field).unwrap();
    }
}
