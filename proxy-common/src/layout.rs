//! The one macro that proves a shared type's layout and, having proved it, lets it cross.

/// States the layout of a `#[repr(C)]` type that both halves use: size, alignment, the offset of
/// each field, and that the fields leave no padding (hash keys are compared as bytes, so a padding
/// byte is a missed lookup). Any disagreement is a compile error on the target that has it.
///
/// With feature `user` the type becomes `aya::Pod`, here and nowhere else.
#[macro_export]
macro_rules! shared_layout {
    ($type:ty, size = $size:literal, align = $align:literal, {
        $($offset:literal => $field:ident: $field_type:ty),+ $(,)?
    }) => {
        const _: () = {
            assert!(core::mem::size_of::<$type>() == $size, "size");
            assert!(core::mem::align_of::<$type>() == $align, "alignment");
            $(assert!(
                core::mem::offset_of!($type, $field) == $offset,
                concat!("offset of ", stringify!($field)),
            );)+
            assert!(0 $(+ core::mem::size_of::<$field_type>())+ == $size, "padding");
            // Each field has the type stated here, and that type accepts any bit pattern.
            const fn is_plain<T: $crate::layout::Plain>(_: T) {}
            const fn fields(value: $type) {
                $(is_plain::<$field_type>(value.$field);)+
            }
            let _ = fields;
        };

        impl $crate::layout::Plain for $type {}

        // SAFETY: the asserts above show that the type is `repr(C)`-shaped without padding, and
        // `Plain` that each field accepts any bit pattern.
        #[cfg(feature = "user")]
        unsafe impl aya::Pod for $type {}
    };
}

/// Types for which every bit pattern is a value, zero included: what a fresh map slot holds.
pub trait Plain: Copy + 'static {}

impl Plain for u8 {}
impl Plain for u16 {}
impl Plain for u32 {}
impl Plain for u64 {}
impl<T: Plain, const N: usize> Plain for [T; N] {}
