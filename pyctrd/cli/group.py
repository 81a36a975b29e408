"""Command groups: print help if no command is given, and suggest one for a misspelled name."""

from __future__ import annotations

from typing import Final

import click

# Names that other tools use for our commands.
_ALIASES: Final = {
    "check": "diagnose",
    "delete": "rm",
    "df": "usage",
    "du": "usage",
    "explain": "registry explain",
    "export": "save",
    "image": "images",
    "import": "load",
    "list": "images",
    "ls": "images",
    "referrers": "registry referrers",
    "remove": "rm",
    "rmi": "rm",
    "repair": "verify --repair",
    "tags": "registry tags",
}


class Group(click.Group):
    """A group that behaves the same with every supported version of click."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Print help if there are no arguments, and say where a misplaced option belongs."""
        if not args and not ctx.resilient_parsing:
            click.echo(ctx.get_help(), err=True)
            ctx.exit(2)
        given = list(args)
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            command = self._owner(ctx, error.option_name, given)
            if command:
                path = f"{ctx.command_path} {command}"
                raise click.UsageError(
                    f"{error.option_name} belongs after the command: {path} ... {error.option_name}", ctx
                ) from None
            raise

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; suggest one for an unknown name."""
        name = args[0]
        if self.get_command(ctx, name) is None and not ctx.resilient_parsing and not name.startswith("-"):
            near = self._near(ctx, name)
            meant = f" Did you mean {ctx.command_path} {near}?" if near else ""
            raise click.UsageError(f"No such command {name!r}.{meant}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands with the first paragraph of their help in full, which click would truncate."""
        commands = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        rows = [
            (name, " ".join((command.help or "").partition("\n\n")[0].split()))
            for name, command in commands
            if command is not None
        ]
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def _near(self, ctx: click.Context, name: str) -> str:
        names = self.list_commands(ctx)
        other = _ALIASES.get(name.lower(), "")
        if other.partition(" ")[0] in names:
            return other
        import difflib

        return next(iter(difflib.get_close_matches(name.lower(), names, n=1)), "")

    def _owner(self, ctx: click.Context, option: str, given: list[str]) -> str:
        """Return a command that has the option, preferably one that is on the command line."""
        names = self.list_commands(ctx)
        for name in [word for word in given if word in names] + names:
            command = self.get_command(ctx, name)
            if command and any(option in item.opts for item in command.params):
                return name
        return ""
