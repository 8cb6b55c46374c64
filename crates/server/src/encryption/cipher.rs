//! Values under a key, byte for byte as upstream lays them out.

use aes_gcm::AesGcm;
use aes_gcm::aead::{Aead as _, KeyInit, Payload, consts::U12};
use aes_gcm::aes::{Aes128, Aes192, Aes256};
use cbc::cipher::block_padding::Pkcs7;
use cbc::cipher::{BlockDecryptMut as _, BlockEncryptMut as _, KeyIvInit as _};
use crypto_secretbox::XSalsa20Poly1305;
use ring::hkdf;

use super::config::Kind;

/// A value that this key did not make, or that was changed since.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bad;

const NONCE: usize = 12;
const BLOCK: usize = 16;
const BOX_NONCE: usize = 24;
/// Bytes that choose the key of one value, where keys are derived.
const INFO: usize = 32;

/// Encrypts; `context` is the value's place, without which it cannot be read where the kind allows that. `random` fills
/// bytes that must never come again.
pub(super) fn seal(
    kind: Kind,
    key: &[u8],
    plain: &[u8],
    context: &[u8],
    random: &dyn Fn(&mut [u8]),
) -> Result<Vec<u8>, Bad> {
    let mut nonce = [0; BOX_NONCE];
    match kind {
        Kind::AesGcm => {
            random(&mut nonce[..NONCE]);
            let payload = Payload { msg: plain, aad: context };
            let start = &nonce[..NONCE];
            let sealed = match key.len() {
                16 => gcm::<AesGcm<Aes128, U12>>(key)?.encrypt(start.into(), payload),
                24 => gcm::<AesGcm<Aes192, U12>>(key)?.encrypt(start.into(), payload),
                _ => gcm::<AesGcm<Aes256, U12>>(key)?.encrypt(start.into(), payload),
            };
            Ok([start, &sealed.map_err(|_| Bad)?].concat())
        }
        Kind::AesCbc => {
            random(&mut nonce[..BLOCK]);
            let start = &nonce[..BLOCK];
            let sealed = match key.len() {
                16 => cbc::Encryptor::<Aes128>::new_from_slices(key, start)
                    .map(|c| c.encrypt_padded_vec_mut::<Pkcs7>(plain)),
                24 => cbc::Encryptor::<Aes192>::new_from_slices(key, start)
                    .map(|c| c.encrypt_padded_vec_mut::<Pkcs7>(plain)),
                _ => cbc::Encryptor::<Aes256>::new_from_slices(key, start)
                    .map(|c| c.encrypt_padded_vec_mut::<Pkcs7>(plain)),
            };
            Ok([start, &sealed.map_err(|_| Bad)?].concat())
        }
        Kind::Secretbox => {
            random(&mut nonce);
            let cipher = XSalsa20Poly1305::new_from_slice(key).map_err(|_| Bad)?;
            let sealed = cipher.encrypt((&nonce).into(), plain).map_err(|_| Bad)?;
            Ok([&nonce[..], &sealed].concat())
        }
    }
}

/// Decrypts.
pub(super) fn open(kind: Kind, key: &[u8], sealed: &[u8], context: &[u8]) -> Result<Vec<u8>, Bad> {
    match kind {
        Kind::AesGcm => {
            let (nonce, msg) = sealed.split_at_checked(NONCE).ok_or(Bad)?;
            let payload = Payload { msg, aad: context };
            let plain = match key.len() {
                16 => gcm::<AesGcm<Aes128, U12>>(key)?.decrypt(nonce.into(), payload),
                24 => gcm::<AesGcm<Aes192, U12>>(key)?.decrypt(nonce.into(), payload),
                _ => gcm::<AesGcm<Aes256, U12>>(key)?.decrypt(nonce.into(), payload),
            };
            plain.map_err(|_| Bad)
        }
        Kind::AesCbc => {
            let (iv, blocks) = sealed.split_at_checked(BLOCK).ok_or(Bad)?;
            let plain = match key.len() {
                16 => cbc::Decryptor::<Aes128>::new_from_slices(key, iv)
                    .map_err(|_| Bad)?
                    .decrypt_padded_vec_mut::<Pkcs7>(blocks),
                24 => cbc::Decryptor::<Aes192>::new_from_slices(key, iv)
                    .map_err(|_| Bad)?
                    .decrypt_padded_vec_mut::<Pkcs7>(blocks),
                _ => cbc::Decryptor::<Aes256>::new_from_slices(key, iv)
                    .map_err(|_| Bad)?
                    .decrypt_padded_vec_mut::<Pkcs7>(blocks),
            };
            plain.map_err(|_| Bad)
        }
        Kind::Secretbox => {
            let (nonce, msg) = sealed.split_at_checked(BOX_NONCE).ok_or(Bad)?;
            let cipher = XSalsa20Poly1305::new_from_slice(key).map_err(|_| Bad)?;
            cipher.decrypt(nonce.into(), msg).map_err(|_| Bad)
        }
    }
}

fn gcm<C: KeyInit>(key: &[u8]) -> Result<C, Bad> {
    C::new_from_slice(key).map_err(|_| Bad)
}

/// Encrypts under a key that is derived from `seed` for this value alone.
pub(super) fn seal_derived(
    seed: &[u8],
    plain: &[u8],
    context: &[u8],
    random: &dyn Fn(&mut [u8]),
) -> Result<Vec<u8>, Bad> {
    let mut info = [0; INFO];
    random(&mut info);
    let sealed = seal(Kind::AesGcm, &derive(seed, &info)?, plain, context, random)?;
    Ok([&info[..], &sealed].concat())
}

/// Decrypts what [`seal_derived`] made.
pub(super) fn open_derived(seed: &[u8], sealed: &[u8], context: &[u8]) -> Result<Vec<u8>, Bad> {
    let (info, sealed) = sealed.split_at_checked(INFO).ok_or(Bad)?;
    open(Kind::AesGcm, &derive(seed, info)?, sealed, context)
}

fn derive(seed: &[u8], info: &[u8]) -> Result<[u8; 32], Bad> {
    let mut key = [0; 32];
    let (seed, info) = (hkdf::Prk::new_less_safe(hkdf::HKDF_SHA256, seed), [info]);
    seed.expand(&info, hkdf::HKDF_SHA256).and_then(|made| made.fill(&mut key)).map_err(|_| Bad)?;
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counting(bytes: &mut [u8]) {
        bytes.iter_mut().enumerate().for_each(|(i, byte)| *byte = i as u8);
    }

    #[test]
    fn what_is_sealed_can_be_opened_in_its_place_and_only_unchanged() {
        let key: Vec<u8> = (0..32).collect();
        for (kind, size, longer) in [
            (Kind::AesGcm, 16, 28),
            (Kind::AesGcm, 24, 28),
            (Kind::AesGcm, 32, 28),
            (Kind::AesCbc, 16, 16 + 11),
            (Kind::AesCbc, 24, 16 + 11),
            (Kind::AesCbc, 32, 16 + 11),
            (Kind::Secretbox, 32, 40),
        ] {
            let key = &key[..size];
            let sealed = seal(kind, key, b"hello", b"place", &counting).unwrap();
            assert_eq!(sealed.len(), 5 + longer, "{kind:?}");
            assert_eq!(open(kind, key, &sealed, b"place").unwrap(), b"hello");
            let other_place = open(kind, key, &sealed, b"other");
            assert_eq!(other_place.is_err(), kind == Kind::AesGcm, "only this kind knows its place");
            assert_eq!(open(kind, key, &sealed[..7], b"place"), Err(Bad));
            if kind != Kind::AesCbc {
                let mut changed = sealed.clone();
                *changed.last_mut().unwrap() ^= 1;
                assert_eq!(open(kind, key, &changed, b"place"), Err(Bad));
            }
        }
        let sealed = seal_derived(&key, b"hello", b"place", &counting).unwrap();
        assert_eq!(open_derived(&key, &sealed, b"place").unwrap(), b"hello");
        assert_eq!(open_derived(&key, &sealed, b"other"), Err(Bad));
    }

    /// Test vectors of NIST (GCM, case 14 of the specification) and of RFC 3602 (CBC, case 1).
    #[test]
    fn published_vectors() {
        let hex = |text: &str| -> Vec<u8> {
            (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap()).collect()
        };
        let zero = |bytes: &mut [u8]| bytes.fill(0);
        let sealed = seal(Kind::AesGcm, &[0; 32], &[0; 16], b"", &zero).unwrap();
        assert_eq!(sealed[12..], hex("cea7403d4d606b6e074ec5d3baf39d18d0d1c8a799996bf0265b98b5d48ab919"));
        let (key, iv) = (hex("06a9214036b8a15b512e03d534120006"), hex("3dafba429d9eb430b422da802c9fac41"));
        let from = |bytes: &mut [u8]| bytes.copy_from_slice(&iv);
        let sealed = seal(Kind::AesCbc, &key, b"Single block msg", b"", &from).unwrap();
        assert_eq!(sealed[16..32], hex("e353779c1079aeb82708942dbe77181a"));
    }
}
