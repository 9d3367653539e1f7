#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "core/error.hpp"
#include "formats/file.hpp"
#include "submit/command.hpp"
#include "submit/iterations.hpp"
#include "submit/queue.hpp"
#include "submit/records.hpp"
#include "submit/runs.hpp"
#include "submit/script.hpp"
#include "submit/status.hpp"
#include "support/folder.hpp"

namespace reshard::submit {
namespace {

using Numbers = std::vector<std::uint64_t>;

template <class Work>
std::string refusal(Work&& work, Kind kind = Kind::usage) {
  try {
    work();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), kind) << error.what();
    return error.what();
  }
  return "";
}

TEST(Iterations, AreChosenAsWished) {
  const Numbers complete = {1000, 1500, 2000, 3000};
  const auto of = [&](const std::vector<std::string>& words) {
    return chosen(iteration_wish(words), complete);
  };
  EXPECT_EQ(of({"latest"}), Numbers{3000});
  EXPECT_EQ(of({"all"}), complete);
  EXPECT_EQ(of({"2000,1000,2000"}), (Numbers{1000, 2000}));
  EXPECT_EQ(of({"0002000", "7"}), (Numbers{7, 2000}));  // not complete: told later
  EXPECT_EQ(of({"1000:3000:1000"}), (Numbers{1000, 2000, 3000}));
  EXPECT_EQ(of({"1001:2999"}), (Numbers{1500, 2000}));
  EXPECT_EQ(of({"5000:6000"}), Numbers{});
  EXPECT_EQ(chosen(iteration_wish({"latest"}), {}), Numbers{});
}

TEST(Iterations, RefuseOtherWords) {
  for (const char* word : {"", "last", "1,,2", "1-3", "3:1", "1:3:0", "1:2:3:4", "-1", "1e3",
                           "99999999999999999999"}) {
    EXPECT_NE(refusal([&] { static_cast<void>(iteration_wish({word})); }), "") << word;
  }
}

TEST(Script, QuotesWhatAShellReadsBack) {
  for (const std::string& word :
       {std::string(""), std::string("plain/path-1.0"), std::string("it's"),
        std::string("$HOME `x`"), std::string("a\nb\t\\ \"c\" ~ * ; & |"),
        std::string("--flag=@X@"), std::string("\xff\x01")}) {
    const CommandResult done = run_command({"bash", "-c", "printf '%s' " + quoted(word)});
    EXPECT_EQ(done.code, 0);
    EXPECT_EQ(done.output, word);
  }
}

Job example_job() {
  Job job;
  job.name = "convert-run-1";
  job.run = "run";
  job.logs = "/logs";
  job.save = "/save";
  job.folder = "/here";
  Task task;
  task.iteration = 7;
  task.unit = "/save/it's @LOGS@";
  task.words = {"convert", "/src", "/save/it's @LOGS@", "--to", "hf"};
  job.tasks = {task};
  return job;
}

TEST(Script, FillsInEveryMarkOnce) {
  SlurmWish wish;
  wish.reshard = "/bin/reshard";
  wish.account = "p1";
  const std::string script = make_script(example_job(), wish);
  EXPECT_NE(script.find("#SBATCH --account=p1\n"), std::string::npos);
  EXPECT_NE(script.find("'/save/it'\\''s @LOGS@'"), std::string::npos);  // a value is no mark
  EXPECT_EQ(script.find("--array"), std::string::npos);
  EXPECT_EQ(script.find("--partition"), std::string::npos);
  for (const char* mark : {"@SBATCH@", "@NAME@", "@INDEX@", "@RESHARD@", "@LAUNCHER@", "@TASKS@",
                           "@CONTAINER@", "@REQUEUE_LIMIT@", "@ESTIMATE@"}) {
    EXPECT_EQ(script.find(mark), std::string::npos) << mark;
  }
  EXPECT_EQ(run_command({"bash", "-n", "-c", script}).code, 0);
}

TEST(Script, RefusesWhatWouldLeaveItsLine) {
  const auto refused = [](const SlurmWish& wish, const Job& job = example_job()) {
    return refusal([&] { static_cast<void>(make_script(job, wish)); });
  };
  SlurmWish wish;
  wish.account = "p1\n#SBATCH --nodes=99";
  EXPECT_NE(refused(wish).find("--account"), std::string::npos);
  wish = {};
  wish.sbatch = {"--comment=\"a b\""};
  EXPECT_NE(refused(wish).find("--sbatch"), std::string::npos);
  wish = {};
  wish.time = "5\ntouch X";
  EXPECT_NE(refused(wish).find("--time"), std::string::npos);
  wish = {};
  wish.container = "apptainer:image";
  wish.mounts = {"/a,/b"};
  EXPECT_NE(refused(wish).find("--mount"), std::string::npos);
  wish.mounts = {};
  Job job = example_job();
  job.save = "/out:12/x";  // FROM:TO to a container, a path to all else
  EXPECT_NE(refused(wish, job).find("/out:12/x"), std::string::npos);
  EXPECT_NE(make_script(job, {}).find("/out:12/x"), std::string::npos);
  job = example_job();
  job.logs = "/logs/%j";
  EXPECT_NE(refused({}, job).find("--convert-logs-dir"), std::string::npos);
  EXPECT_NE(refusal([] { static_cast<void>(container_of("docker:x")); }), "");
  EXPECT_NE(refusal([] { static_cast<void>(container_of("apptainer:")); }), "");
  EXPECT_EQ(plain_name("a b/c\nd.e"), "a_b_c_d.e");
}

TEST(Runs, PathsThatMovedAreFollowed) {
  const std::vector<std::pair<std::string, std::string>> maps = {{"/old/runs", "/new"},
                                                                 {"/old/", "/other/"}};
  EXPECT_EQ(mapped("/old/runs/a", maps), "/new/a");
  EXPECT_EQ(mapped("/old/runs", maps), "/new");
  EXPECT_EQ(mapped("/old/runs2/a", maps), "/other/runs2/a");
  EXPECT_EQ(mapped("/older/a", maps), "/older/a");
}

TEST(Queue, ReadsJobsAndArrays) {
  const Queue queue("4711 N/A PENDING\n12 0 RUNNING\n12 1 PENDING\nnonsense\n\n");
  EXPECT_EQ(queue.state(4711, std::nullopt), "PENDING");
  EXPECT_EQ(queue.state(12, 0), "RUNNING");
  EXPECT_EQ(queue.state(12, 1), "PENDING");
  EXPECT_EQ(queue.state(12, std::nullopt), std::nullopt);
  EXPECT_EQ(queue.state(13, 0), std::nullopt);
}

TEST(Records, AreReadBack) {
  const test::Folder scratch;
  const std::string save = scratch.path().string();
  EXPECT_TRUE(read_jobs(save).empty());
  append_job(save, {12, "r\xff", "/logs", "name", true, {"/a", "/b"}, "", ""});
  std::ofstream(save + "/" + jobs_name, std::ios::app) << "{\"job\": 1";  // a writer was killed
  ASSERT_EQ(read_jobs(save).size(), 1U);
  EXPECT_EQ(read_jobs(save)[0].targets, (std::vector<std::string>{"/a", "/b"}));
  EXPECT_TRUE(read_jobs(save)[0].is_array);
  append_job(save, {13, "s", "/logs", "name", false, {"/c"}, "", ""});
  ASSERT_EQ(read_jobs(save).size(), 2U);
  EXPECT_EQ(read_jobs(save)[1].job, 13U);
  std::ofstream(save + "/" + jobs_name) << "{\"job\": \"x\"}\n";
  EXPECT_NE(refusal([&] { static_cast<void>(read_jobs(save)); }, Kind::input), "");
  std::ofstream(save + "/" + jobs_name) << "[]\n";
  EXPECT_NE(refusal([&] { static_cast<void>(read_jobs(save)); }, Kind::input), "");
}

TEST(Records, TheIndexHasALineForEachConversion) {
  const test::Folder scratch;
  const std::string path = (scratch.path() / index_name).string();
  const auto lines = [&] {
    const std::string text = formats::read_text(path, 1 << 20);
    return std::count(text.begin(), text.end(), '\n');
  };
  IndexEntry entry{"/src", "/dst", 7, "d1", 1.5, 100};
  append_index(path, entry);
  append_index(path, entry);  // a job that was run again
  EXPECT_EQ(lines(), 1);
  entry.digest = "d2";  // --overwrite
  append_index(path, entry);
  entry.target = "/other";
  append_index(path, entry);
  EXPECT_EQ(lines(), 3);
  EXPECT_FALSE(std::filesystem::exists(path + ".lock"));
}

TEST(Command, RunsInTheEnvironmentOutsideOfAJob) {
  EXPECT_EQ(run_command({"no-such-program-here"}).code, 127);
  const CommandResult done = run_command({"bash", "-c", "echo out; echo err >&2; cat; exit 3"});
  EXPECT_EQ(done.code, 3);
  EXPECT_EQ(done.output, "out\n");
  EXPECT_EQ(done.errors, "err\n");
  EXPECT_EQ(run_command({"bash", "-c", "kill -9 $$"}).code, 137);
  ::setenv("ADDED_SINCE", "1", 1);  // as MPI does
  EXPECT_EQ(run_command({"bash", "-c", "echo ${ADDED_SINCE:-no}"}).output, "no\n");
  const std::string large = run_command({"bash", "-c", "head -c 300000 /dev/zero"}).output;
  EXPECT_EQ(large.size(), 300000U);
}

TEST(Status, TheLastErrorOfALogIsFound) {
  const test::Folder scratch;
  const std::string log = (scratch.path() / "a.out").string();
  std::ofstream(log) << "0: reshard: note: nothing\n0: reshard: first\n3: reshard: no space left\n"
                        "0: reshard: note: more\nlast line\n";
  EXPECT_EQ(last_error(log), "reshard: no space left");
  std::ofstream(log) << "all is fine\n";
  EXPECT_EQ(last_error(log), "");
  EXPECT_NE(last_error(log + "x"), "");
}

}  // namespace
}  // namespace reshard::submit
