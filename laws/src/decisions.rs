//! Keys of decisions.

use model::{Action, Atom, AtomSet, Attributes, Keys, Name, Room, Test};

/// A line with atoms as JSON, and requests, each a line `METHOD HOST PATH IP` with fields `NAME=VALUE` after it. Requests
/// with equal keys are told apart by no atom.
pub fn decision_key(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Some((atoms, requests)) = text.split_once('\n') else { return };
    let Ok(atoms) = serde_json::from_str::<Vec<Atom>>(atoms) else { return };
    let atoms = AtomSet::new(atoms, true);
    let (keys, mut room) = (Keys::new(&atoms), Room::default());
    let requests: Vec<_> = requests.lines().take(8).map(request).collect();
    let encoded: Vec<_> = requests.iter().map(|one| keys.encode(one, &mut room).to_vec()).collect();
    for (one, key) in requests.iter().zip(&encoded) {
        assert_eq!(keys.encode(one, &mut room), key, "what was there before counts");
        for (other, _) in requests.iter().zip(&encoded).filter(|(_, other)| *other == key) {
            for atom in atoms.atoms() {
                assert_eq!(atom.on(one), atom.on(other), "{atom:?} tells {one:?} from {other:?}");
                if atom.test == Test::Value && atom.steps.is_empty() {
                    assert!(is_same(&atom.name, one, other), "{:?} differs, and no key tells", atom.name);
                }
            }
        }
    }
}

fn is_same(name: &Name, one: &Attributes, other: &Attributes) -> bool {
    one.fact(name) == other.fact(name)
}

fn request(line: &str) -> Attributes {
    let mut words = line.split(' ');
    let mut word = || words.next().unwrap_or_default().to_owned();
    let mut request = Attributes {
        action: Action::Http,
        resource: "orders".to_owned(),
        method: word(),
        host: word(),
        path: word(),
        ..Attributes::default()
    };
    if let Ok(address) = word().parse() {
        request.source_ip = address;
    }
    let fields = words.filter_map(|word| word.split_once('='));
    request.headers = fields.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    request.query = request.headers.clone();
    request
}
