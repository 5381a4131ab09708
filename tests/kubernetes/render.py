"""Renders a folder with kubectl, judges every object by the schemas of Kubernetes (strictly: a field
that Kubernetes does not know is an error), and prints the objects as one JSON array.

    render.py KUBECTL FOLDER VERSION…
"""

import json
import os
import subprocess
import sys

import kubernetes_validate
import yaml


class NoTwins(yaml.SafeLoader):
    """Refuses a key that stands twice in one mapping: the later would silently win."""


def mapping(loader, node):
    keys = [loader.construct_object(key) for key, _ in node.value]
    twice = {key for key in keys if keys.count(key) > 1}
    if twice:
        raise yaml.constructor.ConstructorError(None, None, "twice: %s" % sorted(twice), node.start_mark)
    return loader.construct_mapping(node, deep=True)


NoTwins.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, mapping)


def main() -> int:
    kubectl, folder, versions = sys.argv[1], sys.argv[2], sys.argv[3:]
    for name in sorted(os.listdir(folder)):
        if name.endswith(".yaml"):
            with open(os.path.join(folder, name), encoding="utf-8") as file:
                list(yaml.load_all(file, Loader=NoTwins))
    # Nothing of this machine's clusters is looked at.
    rendered = subprocess.run(
        [kubectl, "kustomize", folder],
        env={"PATH": os.environ.get("PATH", ""), "HOME": "/nonexistent", "KUBECONFIG": os.devnull},
        stdout=subprocess.PIPE,
        check=True,
    )
    objects = [object for object in yaml.safe_load_all(rendered.stdout) if object]
    wrong = 0
    for version in versions:
        for object in objects:
            try:
                kubernetes_validate.validate(object, version, strict=True)
            except kubernetes_validate.ValidationError as error:
                wrong += 1
                place = ".".join(str(part) for part in error.path)
                name = "%s %s" % (object["kind"], object["metadata"]["name"])
                print("Kubernetes %s, %s: %s: %s" % (version, name, place, error.message), file=sys.stderr)
    json.dump(objects, sys.stdout)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
