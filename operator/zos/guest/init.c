/* The init of a container-mode guest: brings up the machine, runs its entrypoint, ends with it.
 *
 * How the guest stands is written into the first sector of the disk "zos-status", in one line:
 *   "running", "stopping", "exited <code>", "stopped <code>", "rebooted <code>", "failed <why>".
 * The host reads it when the guest is gone; without a word about the end there, the guest crashed. It makes that disk larger to
 * say that it has mounted something anew inside a share.
 *
 * Where the image's own init is to run, this one makes way for it when all is ready. How that ends the host knows, as it ends the
 * machine; what is left of this one (keeper.c) says "ending" when it is about to. */
#include "guest.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <unistd.h>

enum { SECTOR = 512, LAST_WORDS_SECONDS = 3 };

static int status_fd = -1;
static char *status_device;

void *must_alloc(size_t size)
{
	void *memory = calloc(1, size);
	if (!memory)
		fail("out of memory");
	return memory;
}

char *text(const char *format, ...)
{
	char *made = NULL;
	va_list list;
	va_start(list, format);
	if (vasprintf(&made, format, list) < 0)
		abort();
	va_end(list);
	return made;
}

static void status_write(const char *format, va_list list)
{
	static char sector[SECTOR] __attribute__((aligned(SECTOR)));
	memset(sector, 0, sizeof sector);
	vsnprintf(sector, sizeof sector - 2, format, list);
	sector[strlen(sector)] = '\n';
	if (status_fd >= 0)
		(void)!pwrite(status_fd, sector, sizeof sector, 0);
}

void status(const char *format, ...)
{
	va_list list;
	va_start(list, format);
	status_write(format, list);
	va_end(list);
}

static void power_off(void)
{
	reboot(RB_POWER_OFF);
	for (;;)
		pause();
}

void fail(const char *format, ...)
{
	char *why;
	va_list list;
	va_start(list, format);
	if (vasprintf(&why, format, list) < 0)
		abort();
	va_end(list);
	dprintf(2, "zos: %s\n", why);
	status("failed %s", why);
	unmount_all();
	power_off();
	__builtin_unreachable();
}

static void console_open(void)
{
	int fd = open("/dev/console", O_RDWR | O_NOCTTY);
	for (int i = 0; fd >= 0 && i < 3; i++)
		dup2(fd, i);
	if (fd > 2)
		close(fd);
}

static int exit_code(int how)
{
	return WIFSIGNALED(how) ? 128 + WTERMSIG(how) : WEXITSTATUS(how);
}

/* Everything that still runs gets a moment. */
static void end_processes(void)
{
	struct timespec moment = {LAST_WORDS_SECONDS, 0};
	sigset_t children;
	sigemptyset(&children);
	sigaddset(&children, SIGCHLD);
	for (int round = 0; round < 2; round++) {
		if (kill(-1, round ? SIGKILL : SIGTERM) < 0)
			return;
		kill(-1, SIGCONT);
		for (;;) {
			pid_t gone = waitpid(-1, NULL, WNOHANG);
			if (gone < 0)
				return;
			if (gone == 0 && sigtimedwait(&children, NULL, &moment) < 0)
				break;
		}
	}
}

/* Waits for the end of the entrypoint; gives the word for how it ended. */
static const char *supervise(const struct config *config, pid_t entrypoint, int signals, int uevents, int *code)
{
	int button = button_open(), timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC);
	const char *word = "exited";
	struct pollfd waits[] = {{signals, POLLIN, 0}, {uevents, POLLIN, 0}, {timer, POLLIN, 0}, {button, POLLIN, 0}};
	for (;;) {
		bool stop = false;
		if (poll(waits, sizeof waits / sizeof *waits, -1) < 0)
			continue;
		if (waits[0].revents & POLLIN) {
			struct signalfd_siginfo info;
			(void)!read(signals, &info, sizeof info);
			if (info.ssi_signo == SIGCHLD) {
				int how;
				for (pid_t gone; (gone = waitpid(-1, &how, WNOHANG)) > 0;)
					if (gone == entrypoint) {
						*code = exit_code(how);
						return word;
					}
			} else { /* as busybox' halt, poweroff and reboot ask their init */
				word = info.ssi_signo == SIGTERM || info.ssi_signo == SIGINT ? "rebooted" : "exited";
				stop = true;
			}
		}
		if ((waits[1].revents & POLLIN) && uevents_read(uevents, status_device))
			shares_renew(config, entrypoint);
		if (waits[2].revents & POLLIN)
			kill(entrypoint, SIGKILL);
		if (button >= 0 && (waits[3].revents & POLLIN) && button_pressed(button)) {
			word = "stopped";
			status("stopping");
			stop = true;
		}
		if (stop) {
			struct itimerspec grace = {{0, 0}, {config->stop_seconds ? config->stop_seconds : 1, 0}};
			kill(entrypoint, config->stop_signal);
			timerfd_settime(timer, 0, &grace, NULL);
		}
	}
}

static int signals_open(void)
{
	sigset_t taken;
	sigemptyset(&taken);
	sigaddset(&taken, SIGCHLD);
	sigaddset(&taken, SIGTERM);
	sigaddset(&taken, SIGINT);
	sigaddset(&taken, SIGUSR1);
	sigaddset(&taken, SIGUSR2);
	sigprocmask(SIG_SETMASK, &taken, NULL);
	return signalfd(-1, &taken, SFD_CLOEXEC);
}

/* Whether this boot only shows that the node can boot a guest. */
static bool probed(void)
{
	char line[4096];
	int fd = open("/proc/cmdline", O_RDONLY | O_CLOEXEC);
	ssize_t size = fd < 0 ? -1 : read(fd, line, sizeof line - 1);
	close(fd);
	line[size > 0 ? size : 0] = 0;
	return strstr(line, " zos.probe") != NULL;
}

/* What this guest said last before it began anew. The host wipes that out before it starts one. */
static bool said(const char *device, const char *word)
{
	char sector[SECTOR] = "";
	int fd = open(device, O_RDONLY | O_CLOEXEC);
	ssize_t size = read(fd, sector, sizeof sector - 1);
	close(fd);
	return size > 0 && strncmp(sector, word, strlen(word)) == 0;
}

/* All is ready: the image's own init takes over. */
static void make_way(const struct config *config, int signals)
{
	if (access(config->args[0], X_OK) < 0)
		fail("%s: %s", config->args[0], strerror(errno));
	if (!mount_become())
		fail("enter the image: %s", strerror(errno));
	keeper_start(config, signals, uevents_open(), status_device);
	status("running");
	process_become(config);
}

int main(void)
{
	struct config *config = must_alloc(sizeof *config);
	const char *device;
	int code = 0;

	config->stop_signal = SIGTERM;
	mount_basics();
	console_open();
	umask(0);
	int signals = signals_open();
	reboot(RB_DISABLE_CAD); /* Ctrl-Alt-Del comes as SIGINT */
	if (probed())
		power_off();
	modules_load("/modules/always");
	device = disk_find("zos-status");
	if (device) {
		bool died = said(device, "running");
		status_device = text("%s", device);
		status_fd = open(device, O_WRONLY | O_DIRECT | O_SYNC | O_CLOEXEC);
		if (died)
			fail("the system was reset without having ended: its kernel panicked, or it was told to reboot at once");
	}
	status("booting");
	device = disk_find("zos-config");
	if (!device)
		fail("configuration: no disk with it");
	config_read(device, config);
	for (size_t i = 0; i < config->n_mounts; i++)
		if (config->mounts[i].format && strcmp(config->mounts[i].format, "btrfs") == 0) {
			modules_load("/modules/btrfs");
			break;
		}
	if (config->hostname)
		(void)!sethostname(config->hostname, strlen(config->hostname));
	network_up(config);
	mount_root(config->root ? config->root : "zos-root");
	shares_hide(config);
	mount_enter(config);
	mount_further(config);
	write_files(config);
	if (config->init)
		make_way(config, signals);
	pid_t entrypoint = process_start(config);
	int uevents = uevents_open(); /* from "running" on the host may count on being heard */
	status("running");
	const char *word = supervise(config, entrypoint, signals, uevents, &code);
	end_processes();
	unmount_all();
	status("%s %d", word, code);
	power_off();
}
