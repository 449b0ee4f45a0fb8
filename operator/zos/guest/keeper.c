/* What goes on beside another init: disks grow, shares are mounted anew, the power button is heard. */
#include "guest.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

/* Every init brings the program by which it is asked. It may hear the button itself as well: once more does no harm. */
static void ask_to_power_off(void)
{
	if (fork() != 0)
		return;
	sigset_t none;
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	execlp("poweroff", "poweroff", NULL);
	dprintf(2, "zos: poweroff: %s\n", strerror(errno));
	_exit(127);
}

/* Whether the system ends: then all that still runs is asked to. */
static bool told_to_end(int signals)
{
	struct signalfd_siginfo info;
	if (read(signals, &info, sizeof info) != sizeof info)
		return false;
	if (info.ssi_signo == SIGCHLD)
		while (waitpid(-1, NULL, WNOHANG) > 0)
			;
	return info.ssi_signo == SIGTERM;
}

static void keep(const struct config *config, int signals, int uevents, const char *device) __attribute__((noreturn));

static void keep(const struct config *config, int signals, int uevents, const char *device)
{
	int button = button_open();
	bool stopping = false;
	struct pollfd waits[] = {{signals, POLLIN, 0}, {uevents, POLLIN, 0}, {button, POLLIN, 0}};
	for (;;) {
		if (poll(waits, sizeof waits / sizeof *waits, -1) < 0)
			continue;
		if ((waits[0].revents & POLLIN) && told_to_end(signals))
			break;
		if ((waits[1].revents & POLLIN) && uevents_read(uevents, device))
			shares_renew(config, 1);
		if (button >= 0 && (waits[2].revents & POLLIN) && button_pressed(button)) {
			stopping = true;
			status("stopping");
			ask_to_power_off();
		}
	}
	if (!stopping)
		status("ending");
	_exit(0);
}

void keeper_start(const struct config *config, int signals, int uevents, const char *device)
{
	pid_t keeper = fork();
	if (keeper < 0)
		fail("fork: %s", strerror(errno));
	if (keeper > 0)
		return;
	prctl(PR_SET_NAME, "zos-keeper");
	setsid();
	setenv("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", 1);
	keep(config, signals, uevents, device);
}
