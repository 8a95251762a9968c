"""What a command and its children do that a test forbids: strace's view, and Python's own."""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
from ipaddress import ip_address
from pathlib import Path

LISTENER = """
import os, sys

def listen(event, args, log=os.open(os.environ['AUDIT_LOG'], os.O_WRONLY | os.O_APPEND)):
    if event == 'pickle.find_class':
        os.write(log, f'{event} {args[0]}.{args[1]}\\n'.encode())
    elif event in ('socket.getaddrinfo', 'socket.gethostbyname'):
        os.write(log, f'look-up {args[0]}\\n'.encode())
    elif event in ('socket.connect', 'socket.sendto', 'socket.sendmsg') and type(args[1]) is tuple:
        os.write(log, f'address {args[1][0]} {args[1][1]}\\n'.encode())

sys.addaudithook(listen)
"""
ADDRESS = re.compile(
    r'port=htons\((\d+)\).*?(?:inet_addr\(|inet_pton\(AF_INET6, )"([^"]+)"', re.DOTALL
)
DNS = 53


@functools.cache
def can_trace() -> bool:
    """strace is there, and allowed."""
    return bool(shutil.which('strace')) and not subprocess.run(['strace', 'true']).returncode


def audited(folder: Path) -> tuple[Path, dict[str, str]]:
    """File of events, and the environment in which Python writes them, children too."""
    (folder / 'sitecustomize.py').write_text(LISTENER)
    log = folder / 'audit.log'
    log.write_text('')
    path = f'{folder}:{os.environ.get("PYTHONPATH", "")}'.rstrip(':')
    return log, {'PYTHONPATH': path, 'AUDIT_LOG': str(log)}


def reached(folder: Path, command: list[str], trace: bool, **environment: str) -> list[str]:
    """Run a command that must end well; returns what it looked up and whom it addressed.

    Loopback is left out, but not a name server there. trace: as the kernel sees it, of libraries
    in C too; else as Python's audit events tell.
    """
    log, variables = audited(folder)
    calls = 'trace=connect,sendto,sendmsg,sendmmsg'
    if trace:
        command = ['strace', '-f', '-qq', '-s', '0', '-e', calls, '-o', str(log), *command]
        variables = {}
    variables = {**os.environ, **variables, **environment}
    done = subprocess.run(command, env=variables, capture_output=True, text=True, cwd=folder)
    assert done.returncode in (0, 10), done.stdout + done.stderr  # 10: a campaign's "equal"
    text = log.read_text()
    if trace:
        addressed = ADDRESS.findall(text)
    else:
        addressed = [(port, host) for host, port in re.findall(r'address (\S+) (\d+)', text)]
    outside = {f'{host} {port}' for port, host in addressed if not _is_here(host, int(port))}
    return sorted(outside | set(re.findall(r'look-up (?!None|localhost|127\.|::1)\S+', text)))


def _is_here(host: str, port: int) -> bool:
    try:
        return ip_address(host).is_loopback and port != DNS
    except ValueError:
        return host == 'localhost'
