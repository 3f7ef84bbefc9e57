"""A network link of the kernel's own between the proxy and a server: lossy, thin, or down.

A pair of virtual interfaces, whose far end lies in a network namespace; servers are started there.
What is lost is dropped by nftables in the namespace, so that nothing of the machine is touched but
an interface that goes with the link. Root and iproute2 can make one.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess

from chaos.stage import NotHere

# The addresses are among those for benchmarks (RFC 2544): nobody is there.
TOOLS = ("ip", "tc", "nft")


class Link:
    """One link. A context manager; who is in the namespace must have ended before.

    Raises:
        NotHere: none can be made, or none that loses packets and is thin, on entering.
        CalledProcessError: a fault could not be brought about.
    """

    def __init__(self) -> None:
        net = f"198.18.{os.getpid() % 256}"
        self._near_address, self.host = f"{net}.1", f"{net}.2"
        self._space = f"chaos-{os.getpid()}"
        self._near, self._far = f"chaos{os.getpid()}n", f"chaos{os.getpid()}f"

    @property
    def inside(self) -> tuple[str, ...]:
        """What a command begins with that is executed at the far end."""
        return ("ip", "netns", "exec", self._space)

    def __enter__(self) -> Link:
        missing = [tool for tool in TOOLS if shutil.which(tool) is None]
        if missing:
            raise NotHere(f"there is no {missing[0]}")
        try:
            self._make()
        except subprocess.CalledProcessError as error:
            self.__exit__()
            raise NotHere(f"{' '.join(error.cmd)}: {error.stderr.strip()}") from None
        except BaseException:
            self.__exit__()
            raise
        return self

    def _make(self) -> None:
        near, far = self._near, self._far
        _run("ip", "netns", "add", self._space)
        _run("ip", "link", "add", near, "type", "veth", "peer", "name", far, "netns", self._space)
        _run("ip", "addr", "add", f"{self._near_address}/30", "dev", near)
        _run(*self.inside, "ip", "addr", "add", f"{self.host}/30", "dev", far)
        for inside, device in ((), near), (self.inside, far), (self.inside, "lo"):
            _run(*inside, "ip", "link", "set", device, "up")
        self._rules("add table inet chaos")
        self.thin("1gbit")
        self.lose(1)
        self.heal()

    def __exit__(self, *_: object) -> None:
        # The interfaces go with the namespace.
        subprocess.run(["ip", "netns", "del", self._space], check=False, stderr=subprocess.DEVNULL)

    # Faults.

    def lose(self, percent: int) -> None:
        """Drop so many packets of a hundred, in each direction; all that comes and goes at 100."""
        self._rules("flush table inet chaos")
        for hook in ("input", "output"):
            self._rules(
                f"add chain inet chaos {hook} {{ type filter hook {hook} priority 0; }}",
                f"add rule inet chaos {hook} numgen random mod 100 < {percent} counter drop",
            )

    def thin(self, rate: str) -> None:
        """Carry so much a second, such as 1mbit, in each direction."""
        shape = ("root", "tbf", "rate", rate, "burst", "2kb", "latency", "400ms")
        for inside, device in ((), self._near), (self.inside, self._far):
            _run(*inside, "tc", "qdisc", "replace", "dev", device, *shape)

    def down(self) -> None:
        """Carry nothing, as if a cable had been drawn."""
        _run("ip", "link", "set", self._near, "down")

    def up(self) -> None:
        """Carry again."""
        _run("ip", "link", "set", self._near, "up")

    def heal(self) -> None:
        """Lose nothing, carry as much as comes."""
        self._rules("flush table inet chaos")
        for inside, device in ((), self._near), (self.inside, self._far):
            command = (*inside, "tc", "qdisc", "del", "dev", device, "root")
            subprocess.run(command, check=False, stderr=subprocess.DEVNULL)

    # What has become of packets since the last change.

    @property
    def lost(self) -> int:
        """How many have been dropped."""
        rules = _run(*self.inside, "nft", "list", "table", "inet", "chaos")
        return sum(map(int, re.findall(r"counter packets (\d+)", rules)))

    @property
    def delayed(self) -> int:
        """How many have had to wait, on their way to the server, for a link that is thin."""
        shown = _run("tc", "-s", "qdisc", "show", "dev", self._near)
        return sum(map(int, re.findall(r"overlimits (\d+)", shown)))

    def _rules(self, *lines: str) -> None:
        _run(*self.inside, "nft", "-f", "-", text="\n".join(lines))


def _run(*command: str, text: str = "") -> str:
    done = subprocess.run(command, input=text, text=True, capture_output=True, check=True)
    return done.stdout
