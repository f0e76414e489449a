import pytest


@pytest.fixture
def run_in_empty_folder(tmp_path, monkeypatch, capsys):
    """Makes a function of a command's `main` that returns status, standard output and error."""
    folder = tmp_path / "empty"
    folder.mkdir()
    monkeypatch.chdir(folder)

    def runner(main, *always):
        def run(*arguments):
            with pytest.raises(SystemExit) as stop:
                main([str(argument) for argument in (*arguments, *always)])
            said = capsys.readouterr()
            return stop.value.code, said.out, said.err

        return run

    return runner
