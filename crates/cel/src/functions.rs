//! Which functions there are: one table of signatures, in cel-go's and Kubernetes' names for them.
//!
//! The identifiers of overloads matter: costs are told by them (`cost.rs`, `budget.rs`).

use std::collections::HashMap;
use std::sync::LazyLock;

use crate::types::{Library, Type};

/// One way to call a function.
pub(crate) struct Overload {
    pub(crate) id: &'static str,
    pub(crate) member: bool,
    pub(crate) args: Vec<Type>,
    pub(crate) result: Type,
    /// How many type parameters it has; they are numbered from 0.
    pub(crate) params: u32,
}

/// `function overload(arguments) result`, with a dot before the arguments of receiver calls (the first is the receiver).
/// Single capital letters are type parameters; `#` stands for each of the types listed behind it.
const TABLE: &str = "
_?_:_ conditional(bool,A,A) A
_&&_ logical_and(bool,bool) bool
_||_ logical_or(bool,bool) bool
!_ logical_not(bool) bool
@not_strictly_false not_strictly_false(bool) bool
_==_ equals(A,A) bool
_!=_ not_equals(A,A) bool
_+_ add_bytes(bytes,bytes) bytes
_+_ add_double(double,double) double
_+_ add_duration_duration(duration,duration) duration
_+_ add_duration_timestamp(duration,timestamp) timestamp
_+_ add_timestamp_duration(timestamp,duration) timestamp
_+_ add_int64(int,int) int
_+_ add_list(list(A),list(A)) list(A)
_+_ add_string(string,string) string
_+_ add_uint64(uint,uint) uint
_-_ subtract_double(double,double) double
_-_ subtract_duration_duration(duration,duration) duration
_-_ subtract_int64(int,int) int
_-_ subtract_timestamp_duration(timestamp,duration) timestamp
_-_ subtract_timestamp_timestamp(timestamp,timestamp) duration
_-_ subtract_uint64(uint,uint) uint
_*_ multiply_#(#,#) #|double|int|uint
_/_ divide_#(#,#) #|double|int|uint
_%_ modulo_#(#,#) #|int|uint
-_ negate_#(#) #|double|int
_<_ less_#(#,#) bool|bool|int|uint|double|string|bytes|timestamp|duration
_<_ less_int64_double(int,double) bool
_<_ less_int64_uint64(int,uint) bool
_<_ less_uint64_double(uint,double) bool
_<_ less_uint64_int64(uint,int) bool
_<_ less_double_int64(double,int) bool
_<_ less_double_uint64(double,uint) bool
_<=_ less_equals_#(#,#) bool|bool|int|uint|double|string|bytes|timestamp|duration
_<=_ less_equals_int64_double(int,double) bool
_<=_ less_equals_int64_uint64(int,uint) bool
_<=_ less_equals_uint64_double(uint,double) bool
_<=_ less_equals_uint64_int64(uint,int) bool
_<=_ less_equals_double_int64(double,int) bool
_<=_ less_equals_double_uint64(double,uint) bool
_>_ greater_#(#,#) bool|bool|int|uint|double|string|bytes|timestamp|duration
_>_ greater_int64_double(int,double) bool
_>_ greater_int64_uint64(int,uint) bool
_>_ greater_uint64_double(uint,double) bool
_>_ greater_uint64_int64(uint,int) bool
_>_ greater_double_int64(double,int) bool
_>_ greater_double_uint64(double,uint) bool
_>=_ greater_equals_#(#,#) bool|bool|int|uint|double|string|bytes|timestamp|duration
_>=_ greater_equals_int64_double(int,double) bool
_>=_ greater_equals_int64_uint64(int,uint) bool
_>=_ greater_equals_uint64_double(uint,double) bool
_>=_ greater_equals_uint64_int64(uint,int) bool
_>=_ greater_equals_double_int64(double,int) bool
_>=_ greater_equals_double_uint64(double,uint) bool
_[_] index_list(list(A),int) A
_[_] index_map(map(A,B),A) B
_[_] optional_list_index_int(optional(list(A)),int) optional(A)
_[_] optional_map_index_value(optional(map(A,B)),A) optional(B)
_[?_] list_optindex_optional_int(list(A),int) optional(A)
_[?_] optional_list_optindex_optional_int(optional(list(A)),int) optional(A)
_[?_] map_optindex_optional_value(map(A,B),A) optional(B)
_[?_] optional_map_optindex_optional_value(optional(map(A,B)),A) optional(B)
@in in_list(A,list(A)) bool
@in in_map(A,map(A,B)) bool
size size_bytes(bytes) int
size bytes_size.(bytes) int
size size_list(list(A)) int
size list_size.(list(A)) int
size size_map(map(A,B)) int
size map_size.(map(A,B)) int
size size_string(string) int
size string_size.(string) int
type type(A) type(A)
dyn to_dyn(A) dyn
bool bool_to_bool(bool) bool
bool string_to_bool(string) bool
bytes bytes_to_bytes(bytes) bytes
bytes string_to_bytes(string) bytes
double #_to_double(#) double|double|int|string|uint
duration #_to_duration(#) duration|duration|int|string
int #_to_int64(#) int|int|double|duration|string|timestamp|uint
string bytes_to_string(bytes) string
string #_to_string(#) string|string|bool|double|duration|int|timestamp|uint
string ip_to_string(ip) string
string cidr_to_string(cidr) string
timestamp #_to_timestamp(#) timestamp|timestamp|int|string
uint #_to_uint64(#) uint|uint|double|int|string
contains contains_string.(string,string) bool
endsWith ends_with_string.(string,string) bool
startsWith starts_with_string.(string,string) bool
matches matches(string,string) bool
matches matches_string.(string,string) bool
getFullYear timestamp_to_year.(timestamp) int
getFullYear timestamp_to_year_with_tz.(timestamp,string) int
getMonth timestamp_to_month.(timestamp) int
getMonth timestamp_to_month_with_tz.(timestamp,string) int
getDayOfYear timestamp_to_day_of_year.(timestamp) int
getDayOfYear timestamp_to_day_of_year_with_tz.(timestamp,string) int
getDayOfMonth timestamp_to_day_of_month.(timestamp) int
getDayOfMonth timestamp_to_day_of_month_with_tz.(timestamp,string) int
getDate timestamp_to_day_of_month_1_based.(timestamp) int
getDate timestamp_to_day_of_month_1_based_with_tz.(timestamp,string) int
getDayOfWeek timestamp_to_day_of_week.(timestamp) int
getDayOfWeek timestamp_to_day_of_week_with_tz.(timestamp,string) int
getHours timestamp_to_hours.(timestamp) int
getHours timestamp_to_hours_with_tz.(timestamp,string) int
getHours duration_to_hours.(duration) int
getMinutes timestamp_to_minutes.(timestamp) int
getMinutes timestamp_to_minutes_with_tz.(timestamp,string) int
getMinutes duration_to_minutes.(duration) int
getSeconds timestamp_to_seconds.(timestamp) int
getSeconds timestamp_to_seconds_tz.(timestamp,string) int
getSeconds duration_to_seconds.(duration) int
getMilliseconds timestamp_to_milliseconds.(timestamp) int
getMilliseconds timestamp_to_milliseconds_with_tz.(timestamp,string) int
getMilliseconds duration_to_milliseconds.(duration) int
optional.of optional_of(V) optional(V)
optional.ofNonZeroValue optional_ofNonZeroValue(V) optional(V)
optional.none optional_none() optional(V)
optional.unwrap optional_unwrap(list(optional(V))) list(V)
unwrapOpt optional_unwrapOpt.(list(optional(V))) list(V)
value optional_value.(optional(V)) V
hasValue optional_hasValue.(optional(V)) bool
or optional_or_optional.(optional(V),optional(V)) optional(V)
orValue optional_orValue_value.(optional(V),V) V
last list_last.(list(V)) optional(V)
first list_first.(list(V)) optional(V)
charAt string_char_at_int.(string,int) string
indexOf string_index_of_string.(string,string) int
indexOf string_index_of_string_int.(string,string,int) int
indexOf list_a_index_of_int.(list(A),A) int
lastIndexOf string_last_index_of_string.(string,string) int
lastIndexOf string_last_index_of_string_int.(string,string,int) int
lastIndexOf list_a_last_index_of_int.(list(A),A) int
lowerAscii string_lower_ascii.(string) string
upperAscii string_upper_ascii.(string) string
replace string_replace_string_string.(string,string,string) string
replace string_replace_string_string_int.(string,string,string,int) string
split string_split_string.(string,string) list(string)
split string_split_string_int.(string,string,int) list(string)
substring string_substring_int.(string,int) string
substring string_substring_int_int.(string,int,int) string
trim string_trim.(string) string
format string_format.(string,list(dyn)) string
strings.quote strings_quote(string) string
join list_join.(list(string)) string
join list_join_string.(list(string),string) string
sets.contains list_sets_contains_list(list(A),list(A)) bool
sets.equivalent list_sets_equivalent_list(list(A),list(A)) bool
sets.intersects list_sets_intersects_list(list(A),list(A)) bool
slice list_slice.(list(A),int,int) list(A)
flatten list_flatten.(list(list(A))) list(A)
flatten list_flatten_int.(list(dyn),int) list(dyn)
sort list_#_sort.(list(#)) list(#)|int|uint|double|bool|duration|timestamp|string|bytes
@sortByAssociatedKeys list_#_sortByAssociatedKeys.(list(A),list(#)) list(A)|int|uint|double|bool|duration|timestamp|string|bytes
lists.range lists_range(int) list(int)
reverse list_reverse.(list(A)) list(A)
distinct list_distinct.(list(A)) list(A)
isSorted list_#_is_sorted_bool.(list(#)) bool|int|uint|double|bool|duration|timestamp|string|bytes
sum list_#_sum.(list(#)) #|int|uint|double|duration
max list_#_max.(list(#)) #|int|uint|double|bool|duration|timestamp|string|bytes
min list_#_min.(list(#)) #|int|uint|double|bool|duration|timestamp|string|bytes
find string_find_string.(string,string) string
findAll string_find_all_string.(string,string) list(string)
findAll string_find_all_string_int.(string,string,int) list(string)
url string_to_url(string) url
isURL is_url_string(string) bool
getScheme url_get_scheme.(url) string
getHost url_get_host.(url) string
getHostname url_get_hostname.(url) string
getPort url_get_port.(url) string
getEscapedPath url_get_escaped_path.(url) string
getQuery url_get_query.(url) map(string,list(string))
quantity string_to_quantity(string) quantity
isQuantity is_quantity_string(string) bool
sign quantity_sign(quantity) int
isGreaterThan quantity_is_greater_than.(quantity,quantity) bool
isGreaterThan semver_is_greater_than.(semver,semver) bool
isLessThan quantity_is_less_than.(quantity,quantity) bool
isLessThan semver_is_less_than.(semver,semver) bool
compareTo quantity_compare_to.(quantity,quantity) int
compareTo semver_compare_to.(semver,semver) int
asApproximateFloat quantity_get_float.(quantity) double
asInteger quantity_get_int.(quantity) int
isInteger quantity_is_integer.(quantity) bool
add quantity_add.(quantity,quantity) quantity
add quantity_add_int.(quantity,int) quantity
sub quantity_sub.(quantity,quantity) quantity
sub quantity_sub_int.(quantity,int) quantity
semver string_to_semver(string) semver
semver string_bool_to_semver(string,bool) semver
isSemver is_semver_string(string) bool
isSemver is_semver_string_bool(string,bool) bool
major semver_major.(semver) int
minor semver_minor.(semver) int
patch semver_patch.(semver) int
ip string_to_ip(string) ip
ip cidr_ip.(cidr) ip
isIP is_ip(string) bool
ip.isCanonical ip_is_canonical(string) bool
family ip_family.(ip) int
isUnspecified ip_is_unspecified.(ip) bool
isLoopback ip_is_loopback.(ip) bool
isLinkLocalMulticast ip_is_link_local_multicast.(ip) bool
isLinkLocalUnicast ip_is_link_local_unicast.(ip) bool
isGlobalUnicast ip_is_global_unicast.(ip) bool
cidr string_to_cidr(string) cidr
isCIDR is_cidr(string) bool
containsIP cidr_contains_ip_string.(cidr,string) bool
containsIP cidr_contains_ip_ip.(cidr,ip) bool
containsCIDR cidr_contains_cidr_string.(cidr,string) bool
containsCIDR cidr_contains_cidr.(cidr,cidr) bool
prefixLength cidr_prefix_length.(cidr) int
masked cidr_masked.(cidr) cidr
format.named format-named(string) optional(format)
validate format-validate.(format,string) optional(list(string))
path authorizer_path.(authorizer,string) path
group authorizer_group.(authorizer,string) group
serviceAccount authorizer_serviceaccount.(authorizer,string,string) authorizer
resource groupcheck_resource.(group,string) resource
subresource resourcecheck_subresource.(resource,string) resource
namespace resourcecheck_namespace.(resource,string) resource
name resourcecheck_name.(resource,string) resource
fieldSelector authorizer_fieldselector.(resource,string) resource
labelSelector authorizer_labelselector.(resource,string) resource
check pathcheck_check.(path,string) decision
check resourcecheck_check.(resource,string) decision
errored decision_errored.(decision) bool
error decision_error.(decision) string
allowed decision_allowed.(decision) bool
reason decision_reason.(decision) string
cel.@mapInsert @mapInsert_map_key_value(map(K,V),K,V) map(K,V)
cel.@mapInsert @mapInsert_map_map(map(K,V),map(K,V)) map(K,V)
";

/// Functions that only mutating policies have.
const PATCHES: &str = "jsonpatch.escapeKey string_jsonpatch_escapeKey_string(string) string";

/// The overloads of a function.
pub(crate) fn overloads(name: &str, patches: bool) -> Option<&'static [Overload]> {
    static FUNCTIONS: LazyLock<HashMap<&'static str, Vec<Overload>>> = LazyLock::new(|| {
        let mut functions: HashMap<&'static str, Vec<Overload>> = HashMap::new();
        for line in TABLE.lines().chain(PATCHES.lines()).filter(|line| !line.is_empty()) {
            let Some((name, rest)) = line.split_once(' ') else { continue };
            functions.entry(name).or_default().extend(read(rest));
        }
        for format in crate::library::formats::NAMES {
            let args = Vec::new();
            let result = Type::Library(Library::Format);
            functions.entry(format).or_default().push(Overload { id: format, member: false, args, result, params: 0 });
        }
        functions
    });
    FUNCTIONS.get(name).filter(|_| patches || !name.starts_with("jsonpatch.")).map(Vec::as_slice)
}

/// A line of the table behind the function's name.
fn read(line: &'static str) -> Vec<Overload> {
    let mut parts = line.split('|');
    let signature = parts.next().unwrap_or_default();
    if !signature.contains('#') {
        return one(signature, signature.find(['(', '.']).map_or(signature, |i| &signature[..i]), "")
            .into_iter()
            .collect();
    }
    parts.filter_map(|ty| one(signature, identifier(signature, ty), ty)).collect()
}

/// The identifier of an overload for one type. They are few and live as long as the process.
fn identifier(signature: &str, ty: &str) -> &'static str {
    let head = &signature[..signature.find(['(', '.']).unwrap_or(signature.len())];
    let ty = match ty {
        "int" if !head.contains("list_") && !head.contains("#_to") => "int64",
        "uint" if !head.contains("list_") && !head.contains("#_to") => "uint64",
        other => other,
    };
    Box::leak(head.replace('#', ty).into_boxed_str())
}

fn one(signature: &str, id: &'static str, ty: &str) -> Option<Overload> {
    let signature = signature.replace('#', ty);
    let open = signature.find('(')?;
    let close = signature.rfind(") ")?;
    let mut params: Vec<char> = Vec::new();
    let mut reader = Reader { text: &signature[open + 1..close], params: &mut params };
    let mut args = Vec::new();
    while !reader.text.is_empty() {
        args.push(reader.ty()?);
        reader.text = reader.text.trim_start_matches(',');
    }
    let result = Reader { text: &signature[close + 2..], params: &mut params }.ty()?;
    let member = signature[..open].ends_with('.');
    Some(Overload { id, member, args, result, params: params.len() as u32 })
}

struct Reader<'a> {
    text: &'a str,
    params: &'a mut Vec<char>,
}

impl Reader<'_> {
    fn ty(&mut self) -> Option<Type> {
        let end = self.text.find(['(', ')', ',']).unwrap_or(self.text.len());
        let (name, rest) = self.text.split_at(end);
        self.text = rest;
        let mut inner = Vec::new();
        if let Some(arguments) = rest.strip_prefix('(') {
            self.text = arguments;
            inner.push(self.ty()?);
            while let Some(more) = self.text.strip_prefix(',') {
                self.text = more;
                inner.push(self.ty()?);
            }
            self.text = self.text.strip_prefix(')')?;
        }
        let mut inner = inner.into_iter();
        Some(match name {
            "list" => Type::list(inner.next()?),
            "map" => Type::map(inner.next()?, inner.next()?),
            "optional" => Type::optional(inner.next()?),
            "type" => Type::Type(inner.next().map(Into::into)),
            "dyn" => Type::Dyn,
            "timestamp" => Type::Timestamp,
            "duration" => Type::Duration,
            "quantity" => Type::Library(Library::Quantity),
            "ip" => Type::Library(Library::Ip),
            "cidr" => Type::Library(Library::Cidr),
            "url" => Type::Library(Library::Url),
            "semver" => Type::Library(Library::Semver),
            "format" => Type::Library(Library::Format),
            "authorizer" => Type::Library(Library::Authorizer),
            "path" => Type::Library(Library::PathCheck),
            "group" => Type::Library(Library::GroupCheck),
            "resource" => Type::Library(Library::ResourceCheck),
            "decision" => Type::Library(Library::Decision),
            name if name.len() == 1 => {
                let letter = name.chars().next()?;
                let known = self.params.iter().position(|p| *p == letter);
                let index = known.unwrap_or_else(|| {
                    self.params.push(letter);
                    self.params.len() - 1
                });
                Type::Param(index as u32)
            }
            name => Type::named(name)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_is_read_and_every_function_can_be_called() {
        for line in TABLE.lines().chain(PATCHES.lines()).filter(|line| !line.is_empty()) {
            let (name, rest) = line.split_once(' ').unwrap();
            let wanted = if rest.contains('#') { rest.matches('|').count() } else { 1 };
            assert_eq!(read(rest).len(), wanted, "{line}");
            assert!(crate::eval::is_special(name) || crate::library::function(name).is_some(), "{name} does nothing");
        }
        assert_eq!(overloads("_<_", false).unwrap().len(), 14);
        assert_eq!(overloads("_*_", false).unwrap()[1].id, "multiply_int64");
        assert_eq!(overloads("sort", false).unwrap()[0].id, "list_int_sort");
    }
}
