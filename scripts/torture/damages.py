"""Damaged files from good ones, by a seeded generator.

A damage is a function (path of a good file, random generator) that changes it in place. Those of
`BYTES` fit any file; the others are of a format. `CANARY` is the module that no file may import and
whose function no file may call: it leaves a file behind."""

import io
import json
import pathlib
import pickle
import shutil
import struct
import zipfile

import h5py
import numpy as np

CANARY = "canary_module"
GIB = 2**30


class Runs:
    """Pickled, it calls a function of the canary's when it is read."""

    def __reduce__(self):
        return __import__, (CANARY,)


# --- any file ---


def cut(path, draw):
    content = path.read_bytes()
    path.write_bytes(content[: draw.randrange(len(content))])


def empty(path, draw):
    path.write_bytes(b"")


def flipped(path, draw):
    content = bytearray(path.read_bytes())
    for _ in range(8):
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    path.write_bytes(content)


def zeroed(path, draw):
    content = bytearray(path.read_bytes())
    start, size = draw.randrange(len(content)), draw.randrange(16, 4096)
    content[start : start + size] = bytes(len(content[start : start + size]))
    path.write_bytes(content)


def noise(path, draw):
    path.write_bytes(draw.randbytes(draw.randrange(1, 4096)))


def web_page(path, draw):
    path.write_bytes(b"<!DOCTYPE html><html><body>404 not found</body></html>\n")


def a_folder(path, draw):
    path.unlink()
    path.mkdir()


def leads_nowhere(path, draw):
    path.unlink()
    path.symlink_to("nowhere")


def pickled_code(path, draw):
    path.write_bytes(pickle.dumps(Runs(), protocol=draw.choice((0, 2, 4))))


BYTES = (cut, empty, flipped, zeroed, noise, web_page, a_folder, leads_nowhere, pickled_code)


# --- .keras ---


def _members(path):
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def _zip(path, members, method=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def _without(name):
    def damage(path, draw):
        _zip(path, {key: part for key, part in _members(path).items() if key != name})

    damage.__name__ = f"without {name}"
    return damage


def _with_config(name, change):
    def damage(path, draw):
        members = _members(path)
        members["config.json"] = change(members["config.json"], draw)
        _zip(path, members)

    damage.__name__ = name
    return damage


def _of_layers(change):
    """A change of the model's layers, a list of dicts."""

    def changed(text, draw):
        config = json.loads(text)
        change(config["config"]["layers"], draw)
        return json.dumps(config)

    return changed


def _first(layers, kind):
    return next(layer for layer in layers if layer["class_name"] == kind)


def _foreign_class(layers, draw):
    layer = _first(layers, "Dense")
    layer |= {"module": CANARY, "class_name": "Layer", "registered_name": None}


def _registered_class(layers, draw):
    _first(layers, "Dense")["registered_name"] = "mine>Dense"
    _first(layers, "Dense")["module"] = "mine"


def _lambda(layers, draw):
    import base64
    import marshal

    code = base64.b64encode(marshal.dumps(compile(f"import {CANARY}", "evil", "exec"))).decode()
    _first(layers, "Dense").update(
        class_name="Lambda",
        module="keras.layers",
        registered_name=None,
        config={"name": "evil", "function": {"class_name": "__lambda__", "config": {"code": code}}},
    )


def _torch_layer(layers, draw):
    import base64

    module = base64.b64encode(pickle.dumps(Runs())).decode()
    _first(layers, "Dense").update(
        class_name="TorchModuleWrapper",
        module="keras.layers",
        registered_name=None,
        config={"name": "evil", "module": module},
    )


def _saved_model_layer(layers, draw):
    _first(layers, "Dense").update(
        class_name="TFSMLayer",
        module="keras.layers",
        registered_name=None,
        config={"name": "evil", "filepath": "../input"},
    )


def _called_in(kind, value):
    def change(layers, draw):
        _first(layers, "Dense")["config"]["activation"] = {
            "module": kind,
            "class_name": "function",
            "config": value,
            "registered_name": value,
        }

    return change


def _huge(layers, draw):
    _first(layers, "Dense")["config"]["units"] = draw.choice((10**8, 10**10, 2**40))


def _huge_input(layers, draw):
    shape = _first(layers, "InputLayer")["config"]
    shape["batch_shape"] = [None, 10**6, 10**6, 1]


def _negative(layers, draw):
    _first(layers, "Dense")["config"]["units"] = -3


def _no_list(layers, draw):
    _first(layers, "Dense")["inbound_nodes"] = 7


def _vocabulary(layers, draw):
    _first(layers, "Dense").update(
        class_name="StringLookup",
        module="keras.layers",
        registered_name=None,
        config={"name": "evil", "vocabulary": "/etc/passwd"},
    )


def _bomb(name, size):
    def damage(path, draw):
        members = _members(path)
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            for key, part in members.items():
                if key != name:
                    archive.writestr(key, part)
            with archive.open(name, "w", force_zip64=True) as file:
                block = bytes(2**24)
                for _ in range(size // len(block)):
                    file.write(block)

    damage.__name__ = f"bomb in {name}"
    return damage


def _further(name):
    def damage(path, draw):
        _zip(path, _members(path) | {name: b"import " + CANARY.encode()})

    damage.__name__ = f"further member {name}"
    return damage


def symlink_member(path, draw):
    members = _members(path)
    with zipfile.ZipFile(path, "w") as archive:
        for name, part in members.items():
            archive.writestr(name, part)
        link = zipfile.ZipInfo("assets/link")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc")


def two_configs(path, draw):
    members = _members(path)
    with zipfile.ZipFile(path, "w") as archive:
        for name, part in members.items():
            archive.writestr(name, part)
        archive.writestr("config.json", b"{}")


def many_members(path, draw):
    _zip(path, _members(path) | {f"assets/{i}": b"" for i in range(20000)})


def said_to_be_encrypted(path, draw):
    content = bytearray(path.read_bytes())
    start = content.rindex(b"PK\x01\x02")
    content[start + 8] |= 1
    path.write_bytes(content)


def _with_weights(name, change):
    def damage(path, draw):
        members = _members(path)
        file = path.with_suffix(".h5")
        file.write_bytes(members["model.weights.h5"])
        with h5py.File(file, "r+") as weights:
            names = []
            weights.visititems(
                lambda key, part: names.append(key) if isinstance(part, h5py.Dataset) else None
            )
            change(weights, sorted(names, key=lambda key: -weights[key].size)[0])
        members["model.weights.h5"] = file.read_bytes()
        file.unlink()
        _zip(path, members)

    damage.__name__ = name
    return damage


def _of_another_shape(weights, name):
    del weights[name]
    weights[name] = np.zeros((3, 3), np.float32)


def _nan(weights, name):
    weights[name][...] = np.nan


def _absent(weights, name):
    del weights[name]


def _external(weights, name):
    shape, size = weights[name].shape, weights[name].nbytes
    del weights[name]
    weights.create_dataset(name, shape, "f4", external=[("/etc/passwd", 0, size)])


def _linked(weights, name):
    del weights[name]
    weights[name] = h5py.ExternalLink("/etc/passwd", "/")


def _linked_softly(weights, name):
    del weights[name]
    weights[name] = h5py.SoftLink("/nowhere")


def _boundless(weights, name):
    del weights[name]
    weights.create_dataset(name, (10**6, 10**6), "f4", chunks=(1000, 1000))


def _of_text(weights, name):
    shape = weights[name].shape
    del weights[name]
    weights.create_dataset(name, shape, h5py.string_dtype())


KERAS = (
    _without("config.json"),
    _without("model.weights.h5"),
    _without("metadata.json"),
    *map(_further, ("assets/notes.txt", "../../evil.py", "/tmp/evil_of_torture.py",
                    f"{CANARY}.py", "assets/../../evil.py", "C:\\evil.py")),
    symlink_member, two_configs, many_members, said_to_be_encrypted,
    _bomb("config.json", 3 * GIB), _bomb("model.weights.h5", 3 * GIB),
    _bomb("assets/a", 3 * GIB),
    _with_config("config no JSON", lambda text, draw: text[:-5]),
    _with_config("config a list", lambda text, draw: b"[1, 2]"),
    _with_config("config a number", lambda text, draw: b"7"),
    _with_config("config nested deeply", lambda text, draw: b"[" * 10**5 + b"]" * 10**5),
    _with_config("config not in UTF-8", lambda text, draw: b"\xff\xfe" + text),
    *(
        _with_config(name, _of_layers(change))
        for name, change in (
            ("a class of another module", _foreign_class),
            ("a class registered elsewhere", _registered_class),
            ("a Lambda layer with code", _lambda),
            ("a TorchModuleWrapper with code", _torch_layer),
            ("a TFSMLayer", _saved_model_layer),
            ("a function of the canary", _called_in(CANARY, "run")),
            ("a function of os", _called_in("os", "system")),
            ("a builtin function", _called_in("builtins", "eval")),
            ("a Keras function that is no layer", _called_in("keras.utils", "get_file")),
            ("a layer of 10^8 units or more", _huge),
            ("images of 10^12 pixels", _huge_input),
            ("a layer of -3 units", _negative),
            ("no list of nodes", _no_list),
            ("a vocabulary in /etc", _vocabulary),
        )
    ),
    *(
        _with_weights(name, change)
        for name, change in (
            ("weights of another shape", _of_another_shape),
            ("weights of NaN", _nan),
            ("a weight absent", _absent),
            ("a weight in /etc/passwd", _external),
            ("a link to another file", _linked),
            ("a link to nowhere", _linked_softly),
            ("a weight of 4 TB, not stored", _boundless),
            ("a weight of text", _of_text),
        )
    ),
)  # fmt: skip


# --- PyTorch ---


def _torch(name, make):
    def damage(path, draw):
        import torch

        state = torch.load(path, weights_only=True)
        make(torch, state, path)

    damage.__name__ = name
    return damage


def _saved(make):
    return lambda torch, state, path: torch.save(make(torch, state), path)


def _legacy(torch, state, path):
    state["evil"] = Runs()
    torch.save(state, path, _use_new_zipfile_serialization=False)


def _script(torch, state, path):
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), str(path))


def _first_key(state):
    return next(iter(state))


TORCH = (
    _torch("code beside the tensors", _saved(lambda torch, state: state | {"evil": Runs()})),
    _torch("code in place of a name", _saved(lambda torch, state: {"state_dict": [Runs(), state]})),
    _torch("code in the old format", _legacy),
    _torch("a TorchScript", _script),
    _torch("a list", _saved(lambda torch, state: list(state.values()))),
    _torch("a module", _saved(lambda torch, state: torch.nn.Linear(2, 2))),
    _torch("no entry", _saved(lambda torch, state: {})),
    _torch("NaN", _saved(lambda torch, state: {k: v * float("nan") for k, v in state.items()})),
    _torch("whole numbers", _saved(lambda torch, state: {k: v.int() for k, v in state.items()})),
    _torch("complex", _saved(lambda torch, state: {k: v + 0j for k, v in state.items()})),
    _torch(
        "a tensor of 4 TB, one number stored",
        _saved(
            lambda torch, state: state | {_first_key(state): torch.zeros(1).expand(10**6, 10**6)}
        ),
    ),
    _torch(
        "a sparse tensor of 10^12",
        _saved(
            lambda torch, state: (
                state
                | {
                    _first_key(state): torch.sparse_coo_tensor(
                        torch.zeros(2, 1, dtype=torch.long), torch.ones(1), (10**6, 10**6)
                    )
                }
            )
        ),
    ),
    _torch(
        "a meta tensor",
        _saved(lambda torch, state: state | {_first_key(state): torch.empty(3, device="meta")}),
    ),
)


def safetensors_header(path, draw):
    header = json.dumps(
        {"w": {"dtype": "F32", "shape": [10**6, 10**6], "data_offsets": [0, 4 * 10**12]}}
    ).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(16))


def safetensors_length(path, draw):
    content = path.read_bytes()
    path.write_bytes(struct.pack("<Q", 2**62) + content[8:])


SAFETENSORS = (safetensors_header, safetensors_length)


# --- NumPy ---


def objects(path, draw):
    np.save(path, np.array([Runs(), None], object), allow_pickle=True)


def _npy(name, header, body=b"\0" * 64):
    def damage(path, draw):
        text = header.encode() + b"\n"
        path.write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + body)

    damage.__name__ = name
    return damage


def _array(name, make):
    def damage(path, draw):
        np.save(path, make(np.load(path)))

    damage.__name__ = name
    return damage


NPY = (
    objects,
    _npy("a header of 4 TB", "{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000,)}"),
    _npy("a header with code", f"__import__('{CANARY}')"),
    _npy("a header of -1", "{'descr': '<f4', 'fortran_order': False, 'shape': (-1, 64)}"),
    _npy("a header of objects", "{'descr': '|O', 'fortran_order': False, 'shape': (20, 64)}"),
    _npy("a header nested deeply", "(" * 9000 + ")" * 9000),
    _npy("a header of 4300 digits", "{'descr': '<f4', 'fortran_order': False, 'shape': (1"
         + "0" * 4400 + ",)}"),
    _array("NaN", lambda a: a * np.nan),
    _array("dates", lambda a: a.astype("datetime64[s]")),
    _array("text", lambda a: a.astype("U8")),
    _array("complex", lambda a: a + 0j),
    _array("records", lambda a: np.zeros(len(a), [("a", "f4"), ("b", "i4")])),
    _array("no axes", lambda a: a[0, 0]),
    _array("none of them", lambda a: a[:0]),
)  # fmt: skip


def _npz(name, **arrays):
    def damage(path, draw):
        with open(path, "wb") as file:
            np.savez(file, **{key: make() for key, make in arrays.items()})

    damage.__name__ = name
    return damage


def npz_bomb(path, draw):
    header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (3221225472,)}\n"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        with archive.open("header.npy", "w", force_zip64=True) as file:
            file.write(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header)
            for _ in range(192):
                file.write(bytes(2**24))


def _header(**changes):
    """The state's header with other values."""

    def damage(path, draw):
        with np.load(path) as stored:
            arrays = {name: stored[name] for name in stored.files}
        header = json.loads(str(arrays["header"]))
        header |= changes
        arrays["header"] = np.array(json.dumps(header))
        with open(path, "wb") as file:
            np.savez(file, **arrays)

    damage.__name__ = f"header with {', '.join(changes)}"
    return damage


STATE = (
    _npz("objects", header=lambda: np.array([Runs()], object)),
    _npz("no header", a=lambda: np.zeros(3)),
    _npz("a header that is a list", header=lambda: np.array("[1]")),
    _npz("a header that is an array", header=lambda: np.zeros(3)),
    npz_bomb,
    _header(identity=[]),
    _header(values=7),
    _header(values={"finished": {"clean": {}}}),
    _header(values={}),
    _header(values={"finished": {"clean": {"seconds": 0, "components": {}, "warnings": []},
                                 "fgsm": {"seconds": 0, "components": {}, "warnings": []}}}),
)  # fmt: skip


# --- images ---


def _image(name, make):
    def damage(path, draw):
        from PIL import Image

        buffer = io.BytesIO()
        make(Image, buffer)
        path.write_bytes(buffer.getvalue())

    damage.__name__ = name
    return damage


def _chunk(kind, content):
    import zlib

    return (
        struct.pack(">I", len(content))
        + kind
        + content
        + struct.pack(">I", zlib.crc32(kind + content))
    )


def _png_of(width, height):
    def damage(path, draw):
        import zlib

        head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
        path.write_bytes(
            b"\x89PNG\r\n\x1a\n"
            + _chunk(b"IHDR", head)
            + _chunk(b"IDAT", zlib.compress(bytes(2**20)))
            + _chunk(b"IEND", b"")
        )

    damage.__name__ = f"a PNG that says {width} x {height}"
    return damage


def jpeg_says_65000(path, draw):
    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", (16, 16)).save(buffer, "JPEG")
    content = bytearray(buffer.getvalue())
    at = content.index(b"\xff\xc0") + 5
    content[at : at + 4] = struct.pack(">HH", 65000, 65000)
    path.write_bytes(content)


IMAGES = (
    _png_of(60000, 60000), _png_of(2**31 - 1, 1), _png_of(0, 0), _png_of(4000, 100000),
    jpeg_says_65000,
    _image("a GIF", lambda Image, f: Image.new("P", (8, 8)).save(f, "GIF")),
    _image("a BMP", lambda Image, f: Image.new("RGB", (8, 8)).save(f, "BMP")),
    _image("a WebP", lambda Image, f: Image.new("RGB", (8, 8)).save(f, "WEBP")),
    _image("a TIFF", lambda Image, f: Image.new("RGB", (8, 8)).save(f, "TIFF")),
    _image("16 bits a pixel", lambda Image, f: Image.new("I;16", (8, 8)).save(f, "PNG")),
    _image("a CMYK JPEG", lambda Image, f: Image.new("CMYK", (8, 8)).save(f, "JPEG")),
    _image("1 x 1", lambda Image, f: Image.new("RGB", (1, 1)).save(f, "PNG")),
)  # fmt: skip


# --- JSON results ---


def _result(name, change):
    def damage(path, draw):
        result = json.loads(path.read_text())
        path.write_text(change(result) or json.dumps(result))

    damage.__name__ = name
    return damage


def _set(**values):
    return lambda result: result.update(values)


RESULTS = (
    _result("a list", lambda result: "[1]"),
    _result("a number", lambda result: "7"),
    _result("nested deeply", lambda result: "[" * 10**5 + "]" * 10**5),
    _result("not in UTF-8", lambda result: None),
    _result("accuracy a list", _set(accuracy=[0.5])),
    _result("accuracy NaN", _set(accuracy={"clean": float("nan")})),
    _result("accuracy text", _set(accuracy={"clean": "half"})),
    _result("accuracy 1e400", lambda result: json.dumps(result).replace(
        '"accuracy": {', '"accuracy": {"more": 1e400, ')),
    _result("accuracy 7", _set(accuracy={"clean": 7})),
    _result("threat model text", _set(threat_model="linf")),
    _result("threat model without eps", _set(threat_model={"norm": "linf"})),
    _result("no dataset", lambda result: result.pop("dataset") and None),
    _result("num_examples -1", _set(num_examples=-1)),
    _result("num_examples text", _set(num_examples="many")),
    _result("an interval of one", _set(confidence_interval_95={"clean": [0.1]})),
    _result("no interval", lambda result: result.pop("confidence_interval_95") and None),
    _result("escapes for a terminal", _set(dataset="\x1b[2J\x1b]0;evil\x07")),
)  # fmt: skip


def not_utf8(path, draw):
    path.write_bytes(b"\xff\xfe\xfa" + path.read_bytes())


# --- flags ---


def _flags(name, text):
    def damage(path, draw):
        path.write_text(text)

    damage.__name__ = name
    return damage


FLAGS = (
    not_utf8,
    _flags("an unknown flag", "--nonsense=1\n"),
    _flags("code", f"--eps=__import__('{CANARY}').run()\n"),
    _flags("code as a plug-in", "--dataset=os:system\n"),
    _flags("code as a method", "--method=subprocess:Popen\n"),
    _flags("a division by zero", "--eps=1/0\n"),
    _flags("an eps of infinity", "--eps=inf\n"),
    _flags("an eps of NaN", "--eps=nan\n"),
    _flags("a number of 5000 digits", f"--train_steps={'9' * 5000}\n"),
    _flags("a power", "--learning_rate=9**9**9\n"),
    _flags("a NUL", "--dataset=dig\0its\n"),
    _flags("five megabytes in a line", "--dataset=" + "x" * 5_000_000 + "\n"),
    _flags("itself", "--flagfile=flags.txt\n"),
    _flags("options nested deeply", "--model_options=mean=" + "[" * 5000 + "]" * 5000 + "\n"),
    _flags("options with code", f"--model_options=mean=__import__('{CANARY}')\n"),
    _flags("a data set above the folder", "--dataset=folder:../../../..\n"),
    _flags("a batch of -1", "--batch_size=-1\n"),
)


def other_data(path, draw):
    """A folder's other file in its place."""
    others = [file for file in path.parent.iterdir() if file != path and file.is_file()]
    shutil.copyfile(draw.choice(sorted(others)), path)


def state_leads_away(path, draw):
    state = pathlib.Path(path.parent, "checkpoint")
    state.write_text('model_checkpoint_path: "../../../../etc/passwd"\n')


TF1 = (other_data, state_leads_away)
