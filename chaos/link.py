"""A network link of the kernel's own between the proxy and a server: lossy, thin, or down.

A pair of virtual interfaces, whose far end lies in a network namespace; servers are started there.
What is lost is dropped by nftables in the namespace, so that nothing of the machine is touched but
an interface that goes with the link. Root and iproute2 can make one.
"""

from __future__ import annotations

import os
import shutil
import subprocess

from chaos.stage import NotHere

TOOLS = ("ip", "tc", "nft")
# Addresses for benchmarks (RFC 2544): nobody is there.
NEAR, FAR, PREFIX = "198.18.113.1", "198.18.113.2", 30


class Link:
    """One link. A context manager; who is in the namespace must have ended before.

    Raises:
        NotHere: none can be made, on entering.
    """

    host = FAR

    def __init__(self) -> None:
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
        _run("ip", "netns", "add", self._space)
        try:
            near, far = self._near, self._far
            _run("ip", "link", "add", near, "type", "veth", "peer", "name", far, "netns",
                 self._space)  # fmt: skip
            _run("ip", "addr", "add", f"{NEAR}/{PREFIX}", "dev", near)
            _run(*self.inside, "ip", "addr", "add", f"{FAR}/{PREFIX}", "dev", far)
            for inside, device in ((), near), (self.inside, far), (self.inside, "lo"):
                _run(*inside, "ip", "link", "set", device, "up")
            self._rules("add table inet chaos")
        except BaseException:
            self.__exit__()
            raise
        return self

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
                f"add rule inet chaos {hook} numgen random mod 100 < {percent} drop",
            )

    def thin(self, rate: str) -> None:
        """Carry so much a second, such as 1mbit, in each direction."""
        shape = ("root", "tbf", "rate", rate, "burst", "10kb", "latency", "400ms")
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

    def _rules(self, *lines: str) -> None:
        _run(*self.inside, "nft", "-f", "-", text="\n".join(lines))


def _run(*command: str, text: str = "") -> None:
    done = subprocess.run(command, input=text, text=True, capture_output=True, check=False)
    if done.returncode:
        raise NotHere(f"{' '.join(command)}: {done.stderr.strip()}")
