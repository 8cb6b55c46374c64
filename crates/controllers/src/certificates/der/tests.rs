use super::*;
use rcgen::{CertificateParams, DnType, IsCa, SanType};

fn authority(now: Timestamp) -> SigningAuthority {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "the authority");
    let year = now.strftime("%Y").to_string().parse::<i32>().unwrap();
    params.not_after = rcgen::date_time_ymd(year + 10, 1, 1);
    let certificate = params.self_signed(&key).unwrap().pem();
    SigningAuthority { certificate, key: key.serialize_pem(), longest: std::time::Duration::MAX }
}

fn request(common_name: &str, groups: [&str; 2], name: Option<&str>) -> Vec<u8> {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.distinguished_name.push(DnType::OrganizationName, groups[0]);
    params.distinguished_name.push(DnType::CustomDnType(vec![2, 5, 4, 10]), groups[1]);
    params.subject_alt_names.extend(name.map(|name| SanType::DnsName(name.try_into().unwrap())));
    params.serialize_request(&key).unwrap().pem().unwrap().into_bytes()
}

#[test]
fn signed_certificates_say_what_was_asked_for() {
    let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
    let authority = authority(now);
    let signer = Signer::new(&authority).unwrap();
    let asked = Request::parse(&request("jane", ["devs", "admins"], Some("node.example.com"))).unwrap();
    assert_eq!((&*asked.common_name, asked.organizations.len(), asked.dns), ("jane", 2, 1));
    let validity = Validity { begin: now, end: "2050-06-01T00:00:00Z".parse().unwrap() };
    let usages = ["digital signature", "key encipherment", "client auth"].map(str::to_owned);
    let pem = signer.sign(&asked, &usages, validity, [u64::MAX, 1]).unwrap();

    let (_, parsed) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).unwrap();
    let (_, certificate) = X509Certificate::from_der(&parsed.contents).unwrap();
    let (_, own) = x509_parser::pem::parse_x509_pem(authority.certificate.as_bytes()).unwrap();
    let (_, own) = X509Certificate::from_der(&own.contents).unwrap();
    certificate.verify_signature(Some(own.public_key())).unwrap();
    assert_eq!(certificate.subject().as_raw(), asked.subject);
    assert_eq!(certificate.issuer().as_raw(), own.subject().as_raw());
    let groups: Vec<_> = certificate.subject().iter_organization().filter_map(|group| group.as_str().ok()).collect();
    assert_eq!(groups, ["devs", "admins"]);
    assert!(!certificate.is_ca());
    let usage = certificate.key_usage().unwrap().unwrap().value;
    assert!(usage.digital_signature() && usage.key_encipherment() && !usage.key_cert_sign());
    let extended = certificate.extended_key_usage().unwrap().unwrap().value;
    assert!(extended.client_auth && !extended.server_auth);
    assert!(certificate.subject_alternative_name().unwrap().is_some());
    assert_eq!(certificate.validity().not_after, own.validity().not_after, "no longer than the authority");
}

#[test]
fn what_cannot_be_signed() {
    let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
    let signer = Signer::new(&authority(now)).unwrap();
    let asked = Request::parse(&request("jane", ["a", "b"], None)).unwrap();
    let day = |text: &str| text.parse::<Timestamp>().unwrap();
    let valid = Validity { begin: now, end: day("2027-01-01T00:00:00Z") };
    let unknown = signer.sign(&asked, &["world domination".to_owned()], valid, [1, 1]);
    assert!(matches!(unknown, Err(SignError::Usage(_))));
    let late = Validity { begin: day("2040-01-01T00:00:00Z"), end: day("2041-01-01T00:00:00Z") };
    assert!(matches!(signer.sign(&asked, &[], late, [1, 1]), Err(SignError::Expired)));
    assert!(
        Signer::new(&SigningAuthority {
            certificate: String::new(),
            key: String::new(),
            longest: std::time::Duration::MAX
        })
        .is_err()
    );
    assert_eq!(Request::parse(b"-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n"), None);
    assert_eq!(Request::parse(b"nothing"), None);
}

#[test]
fn lengths_and_times() {
    assert_eq!(tlv(4, &[&[0; 127]])[..2], [4, 127]);
    assert_eq!(tlv(4, &[&[0; 200]])[..3], [4, 0x81, 200]);
    assert_eq!(tlv(4, &[&[0; 300]])[..4], [4, 0x82, 1, 44]);
    assert_eq!(time("2049-12-31T23:59:59Z".parse().unwrap()), [&[0x17, 13], b"491231235959Z".as_slice()].concat());
    assert_eq!(time("2050-01-01T00:00:00Z".parse().unwrap()), [&[0x18, 15], b"20500101000000Z".as_slice()].concat());
}
