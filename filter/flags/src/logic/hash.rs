//! The hash that `fractional` splits by: `MurmurHash3` over the value in deterministic CBOR.
//!
//! flagd's own decision "Harden Hashing Consistency" (fractional-non-string-rand-units) sets the encoding: RFC 8949, 4.2.1,
//! with numbers that have no fraction as integers where 64 bits hold them, and all others in the shortest form that loses
//! nothing. Names in objects are texts, so the older order by length first is the same order.

use std::convert::Infallible;

use half::f16;
use minicbor::Encoder;
use minicbor::encode::Error;

use super::murmur3::Murmur3;
use super::value::{Object, Value};

/// The hash of a value. Whoever calls has paid for the whole value.
pub(crate) fn hash_of(value: &Value<'_>) -> u32 {
    hashed(|cbor| put(cbor, value))
}

/// The hash of a list of two.
pub(crate) fn hash_of_pair(first: &Value<'_>, second: &Value<'_>) -> u32 {
    hashed(|cbor| {
        cbor.array(2)?;
        put(cbor, first)?;
        put(cbor, second)
    })
}

type Written = Result<(), Error<Infallible>>;

fn hashed(write: impl FnOnce(&mut Encoder<Murmur3>) -> Written) -> u32 {
    let mut cbor = Encoder::new(Murmur3::new());
    // Writing into a hash cannot fail, and nothing here is anything but JSON.
    let _written = write(&mut cbor);
    cbor.into_writer().finish()
}

fn put(cbor: &mut Encoder<Murmur3>, value: &Value<'_>) -> Written {
    match value {
        Value::Null => cbor.null()?,
        Value::Bool(truth) => cbor.bool(*truth)?,
        Value::Int(int) => cbor.i64(*int)?,
        Value::Float(float) => return put_float(cbor, *float),
        Value::Text(text) => cbor.str(text)?,
        Value::List(list) => {
            cbor.array(list.len() as u64)?;
            return list.iter().try_for_each(|item| put(cbor, &item));
        }
        Value::Object(object) => return put_object(cbor, *object),
    };
    Ok(())
}

fn put_object(cbor: &mut Encoder<Murmur3>, object: Object<'_>) -> Written {
    let mut members = object.members();
    members.sort_by(|(a, _), (b, _)| a.len().cmp(&b.len()).then_with(|| a.cmp(b)));
    cbor.map(members.len() as u64)?;
    members.iter().try_for_each(|(name, value)| {
        cbor.str(name)?;
        put(cbor, value)
    })
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::float_cmp,
    reason = "each cast is made only where it loses nothing, which is what is asked"
)]
fn put_float(cbor: &mut Encoder<Murmur3>, float: f64) -> Written {
    /// -2^63, the least number of 64 bits.
    const LEAST: f64 = -9_223_372_036_854_775_808.0;
    /// 2^64, the first above all of 64 bits.
    const BEYOND: f64 = 18_446_744_073_709_551_616.0;
    if float.is_nan() {
        cbor.f16(f32::NAN)?;
    } else if float.fract() == 0.0 && (LEAST..0.0).contains(&float) {
        cbor.i64(float as i64)?;
    } else if float.fract() == 0.0 && (0.0..BEYOND).contains(&float) {
        cbor.u64(float as u64)?;
    } else if f16::from_f64(float).to_f64() == float {
        cbor.f16(float as f32)?;
    } else if f64::from(float as f32) == float {
        cbor.f32(float as f32)?;
    } else {
        cbor.f64(float)?;
    }
    Ok(())
}
